"""95 % intervals of timings, over processes, and of scores, over samples."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from spaces.devices import device_of

LEVEL = 0.95
TRUST = 2
"""Observed deviations that the usual spread of a device counts for."""
BATCHES = 4
"""Distinct batches that timed runs cycle through, so that no single input decides a timing."""
FASTEST = 0.2
"""Share of a batch's turns that count as undisturbed."""
ROBUST = 4
"""Processes from which on the one that deviates most is left out of the spread."""
UNTRIMMED = 1.6
"""Standard deviation of normal values over that without the largest of 4 to 6 deviations."""
PARTS = 4
"""Parts of a process's turns, which tell how well its own value is known."""
DIGITS = 6
"""Decimals that are kept of a resample's score."""
BLOCKS, DRAWS = 20, 200
"""Blocks of a process's observations, and resamples of them."""

Turns = Sequence[Sequence[float]]
"""Observations of a program in one process by turn: turn number t has batch number t % BATCHES."""


def undisturbed(turns: Turns, *, lowest: bool = True) -> float:
    """Return a program's value on an undisturbed machine, from its turns in one process.

    The best observation of each turn counts, and of these, for each batch, the mean of its FASTEST
    turns; the value is the median over batches. The best is the lowest unless told otherwise.

    Interrupts, neighbours and slower clocks only ever make a program slower, and hit short programs
    and long ones by different factors. So a median, and a ratio of medians, depend on the minute
    (Chen and Revels 2016, Robust benchmarking in noisy environments, section III).
    """
    return float(np.median(_of_fastest_turns([turns], lowest)[0]))


def undisturbed_ratio(turns: Turns, others: Turns, *, lowest: bool = True) -> float:
    """Return the ratio of two programs' values on an undisturbed machine.

    The programs took the same turns in one process. It is made as `undisturbed`, from the turns
    that were the fastest for both together, so that numerator and denominator saw the same pace.
    """
    own, other = _of_fastest_turns([turns, others], lowest)
    return float(np.median(own / other))


def _of_fastest_turns(programs: Sequence[Turns], lowest: bool) -> np.ndarray:
    """Return the mean of each program's best observations in the fastest turns of each batch.

    The result has shape (programs, batches).
    """
    best = np.array([[min(t) if lowest else max(t) for t in turns] for turns in programs])
    columns = []
    for batch in range(min(BATCHES, best.shape[1])):
        own = best[:, batch::BATCHES]
        fastest = own.min(axis=1) if lowest else own.max(axis=1)
        # By the slower of the programs: the pace may change between their bursts of one turn.
        slowdown = np.abs(np.log(own / fastest[:, None])).max(axis=0)
        count = math.ceil(FASTEST * len(slowdown))
        columns.append(own[:, np.argsort(slowdown)[:count]].mean(axis=1))
    return np.stack(columns, axis=1)


def error_within(turns: Turns, others: Turns | None = None, *, lowest: bool = True) -> float:
    """Return the standard error of a process's undisturbed value, as a share of it.

    With the turns of `others`, it is that of the ratio to them. It follows from contiguous parts of
    the turns, as a disturbance lasts for several turns.
    """
    edges = np.linspace(0, len(turns), min(PARTS, len(turns)) + 1).astype(int)
    parts = [slice(*ends) for ends in itertools.pairwise(edges.tolist())]
    values = [
        undisturbed(turns[part], lowest=lowest)
        if others is None
        else undisturbed_ratio(turns[part], others[part], lowest=lowest)
        for part in parts
    ]
    return float(np.std(values) / np.mean(values) / math.sqrt(len(parts)))


def of_processes(
    values: Sequence[float], errors: Sequence[float] = (0.0,), device: str = "cpu"
) -> tuple[float, float, float]:
    """Return the median of the processes' values, and a 95 % interval for that of other processes.

    `values` are above 0, one of each process, `errors` their standard errors within the process as
    shares, and `device` the device type.

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
    value, deviations = _deviations(values)
    within = float(np.median(errors)) ** 2
    squares = [float(np.sum(np.maximum(side, 0) ** 2)) for side in (-deviations, deviations)]
    below, above = (_factor(2 * s, within, len(values), device) for s in squares)
    return value, value / below, value * above


def of_ratios(
    values: Sequence[float], errors: Sequence[float] = (0.0,), device: str = "cpu"
) -> tuple[float, float, float]:
    """Return the median of the processes' ratios, and a 95 % interval for that of others.

    Each of `values` is the ratio of two programs that took turns in one process; `errors` and
    `device` are as in `of_processes`. The interval is made as there, except that deviations to
    either side count for both: a disturbance may hit the numerator or the denominator.
    """
    value, deviations = _deviations(values)
    within = float(np.median(errors)) ** 2
    factor = _factor(float(np.sum(deviations**2)), within, len(values), device)
    return value, value / factor, value * factor


def _deviations(values: Sequence[float]) -> tuple[float, np.ndarray]:
    """Return the median, and the deviations of the values' logarithms from it.

    From ROBUST values on, the one that deviates most is left out, as the median hardly depends on
    it; the others are scaled so that their squares have the expected sum of all.
    """
    value = float(np.median(values))
    deviations = np.log(np.asarray(values) / value)
    if len(values) < ROBUST:
        return value, deviations
    return value, UNTRIMMED * np.delete(deviations, np.argmax(np.abs(deviations)))


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
) -> tuple[float, float, tuple[float, ...]]:
    """Return a 95 % bootstrap interval of a score over samples, and the scores of the resamples.

    `score` takes the indices (count,) of a resample; `value` is the score of the sample itself.
    Resamples of equally many samples are the same ones, so that two models can be compared on them.
    Resamples without a score are left out of the interval, and none is returned then: an area under
    a curve, for example, is undefined if a rare class is missing. If all resamples agree, which a
    bootstrap cannot tell from certainty, a share in 0..1 gets Wilson's interval instead. Raises
    ValueError if most resamples have no score.
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
        low, high = wilson(value, count)
    resamples = tuple(round(v, DIGITS) for v in values) if len(values) == draws else ()
    return min(float(low), value), max(float(high), value), resamples


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
