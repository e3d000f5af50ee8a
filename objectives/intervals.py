"""95 % intervals of timings, over processes, and of scores, over samples."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from spaces.devices import device_of

LEVEL = 0.95
TRUST = 2
"""Observed deviations that the usual spread of a device counts for."""
BLOCKS, DRAWS = 20, 200
"""Blocks of a process's observations, and resamples of them."""


def of_processes(
    series: Sequence[Sequence[float]], device: str = "cpu"
) -> tuple[float, float, float]:
    """Return the median of the processes' medians, and a 95 % interval for that of other processes.

    Each of `series` holds the observations of one process, in one unit, with a median above 0.
    `device` is the device type.

    Times vary more between processes than within one (memory layout, clocks, neighbours), so the
    spread between processes decides the interval (Kalibera and Jones 2013, Rigorous benchmarking
    in reasonable time, sections 6 to 8). Three processes say little about that spread and one says
    nothing, so it is moderated as in Smyth 2004 (Linear models and empirical Bayes methods,
    section 3): the usual spread on such a device counts for TRUST deviations. Student's t gets
    TRUST + processes - 1 degrees of freedom, so it is wider for few processes. The interval
    predicts another measurement by as many processes, hence the factor 2 beside 1 / processes.
    Disturbances make a process slower and hardly ever faster, so each side of the interval uses
    the deviations on that side.
    """
    value, deviations, within = _between(series)
    squares = [float(np.sum(np.maximum(side, 0) ** 2)) for side in (-deviations, deviations)]
    below, above = (_factor(2 * s, within, len(series), device) for s in squares)
    return value, value / below, value * above


def of_ratios(series: Sequence[Sequence[float]], device: str = "cpu") -> tuple[float, float, float]:
    """Return the median of the processes' median ratios, and a 95 % interval for that of others.

    Each of `series` holds the ratios of one process, all above 0: an artifact's observations over
    those of another one that took turns with it. `device` is the device type.

    The interval is made as in `of_processes`, except that deviations to either side count for both:
    a disturbance may hit the numerator or the denominator.
    """
    value, deviations, within = _between(series)
    factor = _factor(float(np.sum(deviations**2)), within, len(series), device)
    return value, value / factor, value * factor


def _between(series: Sequence[Sequence[float]]) -> tuple[float, np.ndarray, float]:
    """Return the median of medians, their deviations from it, and the variance within a process.

    Deviations and variance are of the logarithms.
    """
    medians = np.array([float(np.median(observations)) for observations in series])
    value = float(np.median(medians))
    errors = [error_of_median(s, m) for s, m in zip(series, medians, strict=True)]
    return value, np.log(medians / value), float(np.mean(np.square(errors)))


def _factor(squares: float, within: float, count: int, device: str) -> float:
    """Return the factor from a median to an end of its interval.

    `squares` is the sum of squared deviations of `count` processes, `within` the variance within.
    """
    from scipy.special import stdtrit  # imported late: it takes 0.3 s, and not every process times

    degrees_of_freedom = TRUST + count - 1
    variance = (TRUST * (device_of(device).spread ** 2 + within) + squares) / degrees_of_freedom
    student = stdtrit(degrees_of_freedom, (1 + LEVEL) / 2)
    return float(np.exp(student * np.sqrt(2 * variance / count)))


def error_of_median(samples: Sequence[float], median: float) -> float:
    """Return the standard error of a process's median, as a share of that median.

    Consecutive samples are correlated (a busy neighbour slows many in a row), so the bootstrap
    resamples the medians of contiguous blocks, not samples. Source: Kunsch 1989 (moving-block
    bootstrap).
    """
    # Not scipy.stats.bootstrap: it refuses a single block and takes 1 s to import.
    parts = np.array_split(np.asarray(samples, dtype=float), min(BLOCKS, len(samples)))
    blocks = np.array([float(np.median(part)) for part in parts])
    draws = np.random.default_rng(0).integers(len(blocks), size=(DRAWS, len(blocks)))
    return float(np.std(np.median(blocks[draws], axis=1))) / median


def of_score(
    score: Callable[[Tensor], float], count: int, value: float, *, draws: int = 200
) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of a score over samples.

    `score` takes the indices (count,) of a resample; `value` is the score of the sample itself.
    Resamples without a score are left out: an area under a curve, for example, is undefined if a
    rare class is missing. If all resamples agree, which a bootstrap cannot tell from certainty, a
    share in 0..1 gets Wilson's interval instead. Raises ValueError if most resamples have no score.
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
    """Return the score of a resample, NaN if the user's code raises an error on it."""
    try:
        return score(index)
    except (ValueError, ArithmeticError, LookupError, AssertionError, RuntimeError):
        return math.nan


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share observed in `count` trials (Wilson 1927).

    The share is rounded to a whole number of trials; the interval always contains the share.
    """
    from scipy.stats import binomtest  # imported late: it takes 1 s and is rarely needed

    interval = binomtest(round(share * count), count).proportion_ci(LEVEL, "wilson")
    return min(share, float(interval.low)), max(share, float(interval.high))
