"""Transforms of losses into the units in which a model is fitted."""

import dataclasses
import statistics
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform:
    """From losses to the model's units: the logarithm of a positive quantity, or none."""

    kind: Literal["log", "none"]
    shift: float = 0.0
    """What is added to a loss to get a positive quantity: 1 turns -accuracy into the error, and 100
    if it is in percent."""
    floor: float = 0.0
    """Smallest quantity whose logarithm is taken."""

    @classmethod
    def of(
        cls, losses: Numbers, ideal: float | None = None, deviations: Numbers | None = None
    ) -> "Transform":
        """Return the transform for observed losses.

        With an `ideal` loss it is the logarithm of what exceeds it, and of twice the median of the
        known `deviations`. Else it is the logarithm of positive losses. Losses from -1 to 0 are
        negative shares, such as -accuracy: the logarithm of what is missing to 1 is taken. Those
        from -100 to 0 are taken for percents. Others are left as they are.
        """
        if ideal is not None and losses.max() > ideal:
            known = [d for d in (() if deviations is None else deviations.tolist()) if d > 0.0]
            least = 2.0 * statistics.median(known) if known else 0.02 * (losses.max() - ideal)
            return cls(kind="log", shift=float(least - ideal), floor=float(least))
        if np.all(losses > 0.0):
            return cls(kind="log", floor=_floor(losses))
        for whole in (1.0, 100.0):
            if np.all((losses >= -whole) & (losses <= 0.0)) and losses.max() > -whole:
                return cls(kind="log", shift=whole, floor=_floor(whole + losses))
        return cls(kind="none")

    def quantity(self, losses: Numbers) -> Numbers:
        """Return what improvement is measured in: the positive quantity, or the loss."""
        return np.maximum(losses + self.shift, self.floor) if self.kind == "log" else losses

    def forward(self, losses: Numbers) -> Numbers:
        """Return losses in the model's units."""
        return np.log(self.quantity(losses)) if self.kind == "log" else losses

    def deviations(self, losses: Numbers, deviations: Numbers) -> Numbers:
        """Return standard deviations of losses in the model's units, to first order."""
        return deviations / self.quantity(losses) if self.kind == "log" else deviations


def _floor(quantities: Numbers) -> float:
    """Return half the smallest positive quantity."""
    return 0.5 * float(quantities[quantities > 0].min())
