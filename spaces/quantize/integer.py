"""Weights and activations as integers, through the kernels that the runtime really has."""

import dataclasses
from typing import Self

from spaces import Plan, Stage, Technique, axis, choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Integer(Technique):
    """Store weights, and compute with activations, in few bits after training.

    Per-channel (8 bits) or per-group (4 bits) scales for weights; activation ranges from
    training data. Source: Jacob et al. 2018, sections 2 and 3 (integer arithmetic).
    """

    stage = Stage.ENCODE
    weight_bits: int = axis(32, choice(32, 8, 4), unit="bits per weight")
    activation_bits: int = axis(32, choice(32, 8), unit="bits per activation")
    calibration_samples: int = 256
    """Training samples from which activation ranges are estimated."""

    def __post_init__(self) -> None:
        if self.weight_bits not in (32, 8, 4):
            raise ValueError(f"weight_bits must be 32, 8 or 4, got {self.weight_bits}")
        if self.activation_bits not in (32, 8):
            raise ValueError(f"activation_bits must be 32 or 8, got {self.activation_bits}")
        if self.calibration_samples < 1:
            raise ValueError(f"calibration_samples must be > 0, got {self.calibration_samples}")

    def plan(self, plan: Plan) -> Plan:
        """Ask for these bits."""
        encoding = dataclasses.replace(
            plan.encoding,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            calibration_samples=self.calibration_samples,
        )
        return dataclasses.replace(plan, encoding=encoding)

    def usual(self) -> tuple[Self, ...]:
        """Return full int8, weight-only int8 and weight-only int4."""
        return tuple(
            dataclasses.replace(self, weight_bits=w, activation_bits=a)
            for w, a in ((8, 8), (8, 32), (4, 32))
        )
