"""Percentiles of single runs: the runs that they need and their bound (MLPerf's early stopping)."""

import bisect
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from objectives.intervals import Turns

CONFIDENCE = 0.99
"""Probability with which a percentile's bound holds."""
TOLD = (50, 90, 99)
"""Percentiles that a report shows, where there are enough runs."""


class TooFewRuns(ValueError):
    """There are fewer runs than a percentile needs; the message says how many it needs."""


def slower(runs: int, percentile: float) -> int:
    """Return how many of some runs may be slower than a bound of their percentile; 0 if too few.

    It is the largest number t for which it would be unlikely, with a probability of at most
    1 - CONFIDENCE, that only t of the runs are slower, if the share of slow runs in general
    exceeded 1 - percentile / 100. Source: Reddi et al. 2020, MLPerf inference benchmark, and the
    rule of early stopping of its load generator, with a tolerance of 0.
    """
    return max(0, _most(runs, 1 - percentile / 100))


def _most(runs: int, share: float) -> int:
    """Return the largest t with P(at most t of the runs) <= 1 - CONFIDENCE, or -1."""
    from scipy.special import bdtr  # imported late: it takes 0.3 s, and not every process times

    tail = bdtr(np.arange(runs + 1), runs, share)
    return int(np.searchsorted(tail, 1 - CONFIDENCE, side="right")) - 1


def runs_needed(percentile: float) -> int:
    """Return the least number of runs of which one may be slower than the percentile's bound."""
    enough = next(2**e for e in itertools.count(2) if slower(2**e, percentile))
    # the least number is above half of it
    counts = range(enough // 2, enough + 1)
    return counts[bisect.bisect_left(counts, 1, key=lambda runs: slower(runs, percentile))]


def percentile_of(runs: Iterable[float], percentile: float) -> tuple[float, float, float]:
    """Return a percentile of runs, and bounds below and above that of all runs in general.

    The upper bound is that of MLPerf, the t-th slowest run if t runs may be slower; the lower bound
    is made alike. Each holds with a probability of CONFIDENCE if runs are independent. Raises
    TooFewRuns.
    """
    times = np.sort(np.asarray(list(runs), dtype=float))
    above = slower(len(times), percentile)
    if not above:
        raise TooFewRuns(
            f"the {percentile:g}th percentile needs {runs_needed(percentile)} runs, there are "
            f"{len(times)}: raise `seconds`, or choose a lower percentile"
        )
    value = float(np.quantile(times, percentile / 100))
    below = max(0, _most(len(times), percentile / 100))
    return value, min(value, float(times[below])), max(value, float(times[-above]))


def paced(turns: Turns, reference: Turns) -> list[float]:
    """Return each run divided by the reference's best run in the same turn.

    The pace of the machine, which both share, cancels out; what hits a single run remains.
    """
    return [run / min(other) for turn, other in zip(turns, reference, strict=True) for run in turn]


def told(
    series: Sequence[Turns], reference_series: Sequence[Turns], reference_value: float
) -> dict[str, float]:
    """Return the percentiles TOLD of runs, at the pace at which the reference takes its value.

    Without a reference they are those of the runs as they are. Percentiles for which there are too
    few runs are left out.
    """
    runs = list(itertools.chain.from_iterable(itertools.chain.from_iterable(series)))
    if reference_series:
        pairs = zip(series, reference_series, strict=True)
        runs = [reference_value * ratio for own, other in pairs for ratio in paced(own, other)]
    return {
        str(percentile): float(np.quantile(runs, percentile / 100))
        for percentile in TOLD
        if slower(len(runs), percentile)
    }
