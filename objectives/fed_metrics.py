"""Scores of metrics that are fed batch by batch, with a jackknife interval over groups."""

import copy
import dataclasses
import math
import numbers
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor

from objectives.intervals import DIGITS, LEVEL, wilson
from spaces import Metric, first_line
from spaces.modules import length, plain, rows

GROUPS = 16
"""Groups of samples that are left out in turn."""
NORMAL = 1.96
"""Standard deviations on each side of a normal value that hold 95 %."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedMetric:
    """A metric of a whole split, and its copies that each lack one group of the samples.

    The samples are divided into GROUPS random groups, the same ones for equally many samples, so
    that two models can be compared. A metric need be no mean of samples, and only knows what it was
    fed, so that its samples cannot be drawn again: the delete-a-group jackknife tells its spread
    (Kott 2001, The delete-a-group jackknife, Journal of Official Statistics 17, section 2).
    """

    whole: Metric
    without: tuple[Metric, ...]
    """Copies of the metric, of which each lacks the group of its index."""
    groups: Tensor
    """Group of each sample (samples,)."""

    @classmethod
    def of(cls, metric: Metric, count: int) -> Self:
        """Prepare a metric for a split of `count` samples; `metric` itself is not fed.

        Raises ValueError if the split has fewer than two samples.
        """
        if count < 2:
            raise ValueError(f"a metric has no interval of {count} sample: give the split more")
        size = min(GROUPS, count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        copies = [copy.deepcopy(metric) for _ in range(size + 1)]
        for each in copies:
            each.reset()
        return cls(whole=copies[0], without=tuple(copies[1:]), groups=order % size)

    def feed(self, start: int, outputs: Any, targets: Any) -> None:
        """Add the samples of a split from number `start` on."""
        targets = plain(targets)
        self.whole.update(outputs, targets)
        groups = self.groups[start : start + length(outputs)]
        for number, metric in enumerate(self.without):
            kept = (groups != number).nonzero()[:, 0]
            if len(kept) == len(groups):
                metric.update(outputs, targets)
            elif len(kept):
                metric.update(rows(outputs, kept), plain(rows(targets, kept)))

    def score(self) -> tuple[float, float, float, tuple[float, ...]]:
        """Return the score, its 95 % interval, and a score for each group that is left out.

        The latter are spread as far around the score as bootstrap resamples are, so that the
        spread of two models' differences is that of a paired comparison. Raises ValueError if the
        score is not finite or has no interval.
        """
        from scipy.special import stdtrit  # imported late: it takes 0.3 s

        value, size = value_of(self.whole), len(self.without)
        parts = torch.tensor([_part(metric) for metric in self.without], dtype=torch.float64)
        # Student's t for the few groups, as a factor on the spread of a normal value.
        few = float(stdtrit(size - 1, (1 + LEVEL) / 2)) / NORMAL
        spread = (parts - parts.mean()) * math.sqrt(size - 1) * few
        half = NORMAL * float(spread.square().mean().sqrt())
        low, high = value - half, value + half
        if half == 0 and 0 <= value <= 1:
            low, high = wilson(value, len(self.groups))
        return value, low, high, tuple(round(value + s, DIGITS) for s in spread.tolist())


def value_of(metric: Metric) -> float:
    """Return the score of what a metric was fed; what is better when lower is negated.

    Raises TypeError if the metric computes anything but one number.
    """
    value = metric.compute()
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"compute() of metric() must return one number, got {_kind(value)}: return a metric "
            "with one value, such as an average over classes"
        )
    return -float(value) if lower_is_better(metric) else float(value)


def lower_is_better(metric: Metric) -> bool:
    """True if a metric says of itself that lower values are better."""
    return getattr(metric, "higher_is_better", None) is False


def measured(
    metric: Metric, count: int, pieces: Iterable[tuple[int, Any, Any]]
) -> tuple[float, float, float, tuple[float, ...]]:
    """Return score, interval and resamples of pieces (start, outputs, targets) of a split.

    See `FedMetric.score`; raises its errors.
    """
    fed = FedMetric.of(metric, count)
    for start, outputs, targets in pieces:
        fed.feed(start, outputs, targets)
    return fed.score()


def _part(metric: Metric) -> float:
    reason: object = "it is not finite"
    try:
        if math.isfinite(value := value_of(metric)):
            return value
    except (ValueError, ArithmeticError, LookupError, AssertionError, RuntimeError) as error:
        reason = first_line(error)
    raise ValueError(
        f"the metric has no interval: it has no value without a {GROUPS}th of the samples "
        f"({reason}); give the split more samples of each kind"
    )


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"a {type(value).__name__}"
