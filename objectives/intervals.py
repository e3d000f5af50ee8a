"""Intervals: how far a measured number can be trusted."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from spaces.devices import device_of

LEVEL = 0.95
TRUST = 2
"""How many observed deviations the usual spread counts for."""
BLOCKS, DRAWS = 20, 200
"""Blocks of a process' observations, and how often they are drawn anew."""


def of_processes(
    series: Sequence[Sequence[float]], device: str = "cpu"
) -> tuple[float, float, float]:
    """Return the median of processes' medians, and where that of other processes would lie (95 %).

    `series` holds the observations of one process each, in one unit, above 0 in the median.
    Times differ more from process to process than within one (where memory lies, clocks,
    neighbours): repetition at that highest level decides the interval (Kalibera and Jones 2013,
    Rigorous benchmarking in reasonable time, sections 6 to 8). Three processes say little of
    their own spread, one says nothing: as in Smyth 2004 (Linear models and empirical Bayes
    methods, section 3) it is moderated, the usual spread on such a device counting for TRUST
    deviations, which also widens Student's t where there are few. The interval foretells a
    measurement of the same kind, hence the factor 2 beside 1 / processes. What disturbs makes
    slower, so that deviations count on the side on which they lie.
    """
    from scipy.special import stdtrit  # a third of a second, and not every process times

    medians = np.array([float(np.median(observations)) for observations in series])
    value, count = float(np.median(medians)), len(medians)
    within = float(
        np.mean([error_of_median(s, m) ** 2 for s, m in zip(series, medians, strict=True)])
    )
    freedom = TRUST + count - 1
    student = stdtrit(freedom, (1 + LEVEL) / 2)
    spread = device_of(device).spread

    def factor(deviations: np.ndarray) -> float:
        seen = 2 * float(np.sum(np.maximum(deviations, 0) ** 2))
        variance = (TRUST * (spread**2 + within) + seen) / freedom
        return float(np.exp(student * np.sqrt(2 * variance / count)))

    logs = np.log(medians / value)
    return value, value / factor(-logs), value * factor(logs)


def error_of_median(samples: Sequence[float], median: float) -> float:
    """Return the standard error of a process' median, as a share of that median.

    Consecutive samples are alike (a busy neighbour slows many in a row), so contiguous blocks
    are resampled, by their medians, not samples. Source: Kunsch 1989 (moving-block bootstrap).
    """
    # Not scipy.stats.bootstrap: it refuses a single block, and takes a second to import.
    parts = np.array_split(np.asarray(samples, dtype=float), min(BLOCKS, len(samples)))
    blocks = np.array([float(np.median(part)) for part in parts])
    draws = np.random.default_rng(0).integers(len(blocks), size=(DRAWS, len(blocks)))
    return float(np.std(np.median(blocks[draws], axis=1))) / median


def of_score(
    score: Callable[[Tensor], float], count: int, value: float, *, draws: int = 200
) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of a score over samples.

    `score` takes the indices (count,) of a resample. Resamples may lack what a score needs, as
    an area under a curve a rare class: those are left out. Where every resample agrees, which a
    bootstrap cannot tell from certainty, a share in 0..1 gets Wilson's interval instead. Raises
    ValueError where most resamples have no score.
    """
    # Not scipy.stats.bootstrap: one resample without a score makes its interval NaN.
    generator = torch.Generator().manual_seed(0)
    indices = [torch.randint(count, (count,), generator=generator) for _ in range(draws)]
    values = [v for index in indices if math.isfinite(v := _score_of(score, index))]
    if len(values) < draws / 2:
        raise ValueError(
            f"the score has no interval: of {draws} random resamples of the split's {count} "
            f"samples only {len(values)} have a score; give the split more samples of each kind"
        )
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if low == high and 0 <= value <= 1:
        return wilson(value, count)
    return min(float(low), value), max(float(high), value)


def _score_of(score: Callable[[Tensor], float], index: Tensor) -> float:
    """Return the score of a resample, NaN where the user's code refuses it."""
    try:
        return score(index)
    except (ValueError, ArithmeticError, LookupError, AssertionError, RuntimeError):
        return math.nan


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share seen in `count` trials (Wilson 1927).

    The share counts as the nearest whole number of trials, and lies within the interval.
    """
    from scipy.stats import binomtest  # a second, and rarely needed

    interval = binomtest(round(share * count), count).proportion_ci(LEVEL, "wilson")
    return min(share, float(interval.low)), max(share, float(interval.high))
