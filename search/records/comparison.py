"""Comparison of records beyond noise: what their measurements can tell apart, and what they cannot.

Scores of one split are compared sample by sample, times and other quantities by their intervals.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import TypeVar

import numpy as np

from objectives import LEVEL, Measurement
from search.records.axis import Axis
from search.records.record import Record

Item = TypeVar("Item")

NORMAL = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Half-width of a 95 % interval in standard deviations."""
FEW = 2
"""Samples added to those on which two models disagree: with fewer than 6 one-sided disagreements
chance cannot be ruled out (McNemar 1947, exact test at 5 %)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference of two scores of the same samples, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """True if the interval holds zero."""
        return self.low <= 0 <= self.high


def difference(own: Measurement, other: Measurement) -> Difference | None:
    """Return `own` minus `other`, two scores of the same samples; None if they cannot be paired.

    The interval is that of a paired bootstrap: both scores were computed on the same resamples
    (Efron and Tibshirani 1993, An introduction to the bootstrap, section 8). It is widened for
    shares of samples, on which the models may disagree too rarely for the bootstrap: see FEW.
    """
    if not own.resamples or len(own.resamples) != len(other.resamples):
        return None
    if own.samples != other.samples:
        return None
    value = own.value - other.value
    deviation = float(np.std(np.subtract(own.resamples, other.resamples)))
    half = _widened(NORMAL * deviation, (own, other), own.samples)
    return Difference(value=value, low=value - half, high=value + half)


def smallest_difference(score: Measurement, samples: int) -> float:
    """Return about the smallest difference to a score that a split of `samples` samples can show.

    The half-width of the score's own interval, scaled to the split, stands for that of a paired
    difference, as if two models disagreed on as many samples as the model gets wrong.
    """
    half = (score.high - score.low) / 2 * math.sqrt(score.samples / samples)
    return _widened(half, (score,), samples)


def _widened(half: float, scores: Sequence[Measurement], samples: int) -> float:
    """Return the half-width of a difference, widened if the scores are shares of `samples`."""
    shares = all(0 <= score.value <= 1 for score in scores)
    return math.hypot(half, NORMAL * math.sqrt(FEW) / samples) if shares else half


def told_difference(own: Record, baseline: Record, name: str) -> tuple[Difference, bool] | None:
    """Return the difference of an objective to the baseline's, and True if it is on test data.

    Test data count before validation data, on which the record was chosen for its luck too. None
    if the objective is not a score of the same samples.
    """
    for on_test, values, others in (
        (True, own.test, baseline.test),
        (False, own.measurements, baseline.measurements),
    ):
        if name in values and name in others:
            found = difference(values[name], others[name])
            if found is not None:
                return found, on_test
    return None


def order(own: Measurement, other: Measurement) -> int:
    """Return -1 or 1 if `own` is lower or higher than `other` beyond noise, 0 if nobody can tell.

    Scores are told apart if their paired difference excludes zero; other measurements if each value
    is outside of the other's interval, which says where a repeated measurement would lie.
    """
    paired = difference(own, other)
    if paired is not None:
        return 0 if paired.is_noise else (-1 if paired.value < 0 else 1)
    if own.value < other.low and own.high < other.value:
        return -1
    if own.value > other.high and own.low > other.value:
        return 1
    return 0


def outcome(own: Record, other: Record, axis: Axis) -> int:
    """Return -1 or 1 if `own` is better or worse on the axis beyond noise, 0 if nobody can tell."""
    return axis.sign * order(own.measurements[axis.name], other.measurements[axis.name])


def dominates(
    own: Record, other: Record, axes: Sequence[Axis], *, scores_by_value: bool = False
) -> bool:
    """True if `own` is better beyond noise on an axis, and worse on none.

    With `scores_by_value`, a score that is lower counts as worse within noise too.
    """
    outcomes = [outcome(own, other, axis) for axis in axes]
    if max(outcomes) > 0 or min(outcomes) == 0:
        return False
    scores = [axis for axis in axes if own.measurements[axis.name].resamples]
    return not scores_by_value or all(axis.loss(own) <= axis.loss(other) for axis in scores)


def tied(own: Record, other: Record, axes: Sequence[Axis]) -> bool:
    """True if no axis tells the two records apart."""
    return all(outcome(own, other, axis) == 0 for axis in axes)


def kernel(items: Sequence[Item], beats: Callable[[Item, Item], bool]) -> list[Item]:
    """Return the items that no returned item beats, in their order.

    Every other item is beaten by a returned one. Noise makes "cannot be told apart" intransitive:
    of a chain in which each item beats the next, but not the one after it, every other item stays,
    rather than the first one alone. Items that beat one another in a circle all stay.
    """
    beaten_by = {i: {j for j, b in enumerate(items) if beats(b, a)} for i, a in enumerate(items)}
    kept: set[int] = set()
    open_items = set(beaten_by)
    while open_items:
        unbeaten = {i for i in open_items if not beaten_by[i] & open_items} or set(open_items)
        kept |= unbeaten
        open_items = {i for i in open_items - unbeaten if not beaten_by[i] & kept}
    return [item for i, item in enumerate(items) if i in kept]
