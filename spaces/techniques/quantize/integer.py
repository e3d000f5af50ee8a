"""Weights and activations as integers, through the kernels that the runtime really has."""

import dataclasses
from collections.abc import Collection
from typing import Self

from spaces import Plan, Stage, Technique, axis, choice
from spaces.quantization import Activations, Grid, constrained

WEIGHT_BITS = (32, 8, 4, 3, 2, 1)
CALIBRATIONS = ("min-max", "percentile", "entropy")
GRANULARITIES = ("automatic", "channel", "group")
TOLERANCE = 0.01
"""Share of the outputs' mean square that rounding activations may cost before training at 8/8 bits
rounds them. Where it costs little nothing is gained (a ResNet-20 pruned by 0.2: 0.860 with it,
0.862 without, in ONNX Runtime) and a step takes a quarter longer; a network of depthwise
convolutions whose channels differ a hundredfold gained 6 points."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Integer(Technique):
    """Store weights, and compute with activations, in few bits.

    8 bits are rounded after training by the runtime's own quantizer, with a scale per channel.
    Below, weights are rounded so that errors make up for each other (Frantar et al. 2023), the
    first and the last layer keep 8 bits, and where distill.logits trains, it trains with rounded
    weights and learned steps, and with rounded activations where they have 8 bits (Esser et al.
    2020); 1 bit is a sign and a scale per channel (Rastegari et al. 2016). Integer arithmetic:
    Jacob et al. 2018, sections 2 and 3.
    """

    stage = Stage.ENCODE
    weight_bits: int = axis(32, choice(32, 8, 4), unit="bits per weight")
    """32, 8, 4, 3, 2 or 1; below 4 only where an experiment names them."""
    activation_bits: int = axis(32, choice(32, 8), unit="bits per activation")
    calibration: str = axis("min-max", choice("min-max"), unit="rule for activation ranges")
    """min-max, percentile or entropy, where the runtime's quantizer offers it."""
    granularity: str = axis("automatic", choice("automatic"), unit="weights sharing a scale")
    """Below 8 bits: channel, group (64 inputs), or automatic, groups in linear layers only, and
    only from 2 bits on."""
    symmetric: bool = False
    """Below 8 bits: no zero points."""
    calibration_samples: int = 256
    """Training samples from which activation ranges are estimated."""

    def __post_init__(self) -> None:
        for field, known in (
            ("weight_bits", WEIGHT_BITS),
            ("activation_bits", (32, 8)),
            ("calibration", CALIBRATIONS),
            ("granularity", GRANULARITIES),
        ):
            given = getattr(self, field)
            if given not in known:
                *first, last = map(str, known)
                raise ValueError(f"{field} must be {', '.join(first)} or {last}, got {given!r}")
        if self.calibration_samples < 1:
            raise ValueError(f"calibration_samples must be > 0, got {self.calibration_samples}")

    def plan(self, plan: Plan) -> Plan:
        """Ask for these bits, and for training to keep to them where they are few."""
        if self.weight_bits == 32 and self.activation_bits == 32:
            return plan
        encoding = dataclasses.replace(
            plan.encoding,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            calibration_samples=self.calibration_samples,
            calibration=self.calibration,
            granularity=self.granularity,
            symmetric=self.symmetric,
        )
        plan = dataclasses.replace(plan, encoding=encoding)
        if self.weight_bits < 8:
            own = Grid(
                weight_bits=self.weight_bits, granularity=self.granularity, symmetric=self.symmetric
            )
            plan = constrained(plan, own)
        if self.activation_bits == 8:
            tolerance = TOLERANCE if self.weight_bits == 8 else 0.0
            plan = constrained(plan, Activations(tolerance=tolerance))
        return plan

    def canonical(self) -> Self:
        """Return the setting without a calibration or a grid that nothing uses."""
        kept = self
        if self.activation_bits == 32:
            kept = dataclasses.replace(kept, calibration="min-max")
        if self.weight_bits >= 8:
            kept = dataclasses.replace(kept, granularity="automatic")
        return kept

    def short(self, searched: Collection[str]) -> str:
        """Return the bits of weights and activations together: 8/8 bit."""
        bits = {"weight_bits", "activation_bits"}
        rest = super().short([name for name in searched if name not in bits])
        if self.weight_bits == self.activation_bits == 32 or bits.isdisjoint(searched):
            return rest
        return f"{self.weight_bits}/{self.activation_bits} bit {rest}".rstrip()

    def usual(self) -> tuple[Self, ...]:
        """Return full int8, weight-only int8 and weight-only int4."""
        return tuple(
            dataclasses.replace(self, weight_bits=w, activation_bits=a)
            for w, a in ((8, 8), (8, 32), (4, 32))
        )
