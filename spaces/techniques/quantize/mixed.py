"""A width for every layer: few bits where they cost little, more where they cost much."""

import dataclasses
from typing import Self

from spaces import Plan, Stage, Technique, axis, choice
from spaces.quantization import Grid, constrained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixed(Technique):
    """Store weights in `mean_bits` on average, allocated to layers by what they cost the loss.

    Each layer gets 8, 6, 4, 3 or 2 bits. What a width costs a layer is measured on training data
    (Fisher-weighted output error), and how long it then takes on the target, by the point's
    runtime; an integer programme finds the best allocation. The record holds it with the times.
    Where these do not differ, or cannot be measured, the loss alone counts, and the record says
    so. Source: Dong et al. 2020, HAWQ-V2, section 3 (allocation by sensitivity); Yao et al. 2021,
    HAWQ-V3, section 3 (and by latency).
    """

    stage = Stage.ENCODE
    mean_bits: float = axis(32, choice(32, 8, 6, 5, 4, 3, 2), unit="bits per weight on average")
    granularity: str = axis("automatic", choice("automatic"), unit="weights sharing a scale")
    """Below 8 bits: channel, group (64 inputs), or automatic, groups in linear layers only."""
    symmetric: bool = False
    """Below 8 bits: no zero points."""
    latency: bool = True
    """Whether layers are timed, once a run, runtime and kind of layer, and their times count."""

    def __post_init__(self) -> None:
        if self.mean_bits != 32 and not 2 <= self.mean_bits <= 8:
            raise ValueError(f"mean_bits must be 32 or from 2 to 8, got {self.mean_bits}")
        if self.granularity not in ("automatic", "channel", "group"):
            raise ValueError(
                f"granularity must be automatic, channel or group, got {self.granularity!r}"
            )

    def plan(self, plan: Plan) -> Plan:
        """Ask for these bits, and for training to keep to them."""
        if self.mean_bits == 32:
            return plan
        asked = {
            "mean_bits": self.mean_bits,
            "granularity": self.granularity,
            "symmetric": self.symmetric,
        }
        encoding = dataclasses.replace(plan.encoding, latency=self.latency, **asked)  # type: ignore[arg-type]
        plan = dataclasses.replace(plan, encoding=encoding)
        return constrained(plan, Grid(**asked))  # type: ignore[arg-type]

    def canonical(self) -> Self:
        """Return the setting without a grid that nothing uses."""
        if self.mean_bits == 32:
            return dataclasses.replace(self, granularity="automatic")
        return self

    def usual(self) -> tuple[Self, ...]:
        """Return 4 bits on average, which most networks bear, and 6."""
        return tuple(dataclasses.replace(self, mean_bits=bits) for bits in (4, 6))
