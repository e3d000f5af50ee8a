"""Store weights, and compute activations, as integers with one width for all layers."""

import dataclasses
from collections.abc import Collection
from typing import Self

from spaces import Plan, Stage, Technique, axis, choice
from spaces.quantization import Activations, Grid, constrained

WEIGHT_BITS = (32, 8, 4, 3, 2, 1)
CALIBRATIONS = ("min-max", "percentile", "entropy")
GRANULARITIES = ("automatic", "channel", "group")
TOLERANCE = 0.01
"""Error of rounded activations, as a share of the outputs' mean square, above which training at 8/8
bits rounds them. If rounding costs little, nothing is gained (a ResNet-20 pruned by 0.2: 0.860 with
it, 0.862 without, in ONNX Runtime) and a step takes a quarter longer; a network of depthwise
convolutions whose channels differ a hundredfold gained 6 points."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Integer(Technique):
    """Store weights, and compute with activations, in few bits.

    With 8 bits, the runtime's own quantizer rounds after training, with a scale per channel. Below
    8 bits, weights are rounded such that errors compensate each other (Frantar et al. 2023), and
    the first and the last layer keep 8 bits; training by distill.logits then uses rounded weights
    with learned steps. It also rounds activations of 8 bits (Esser et al. 2020). 1 bit is a sign
    and a scale per channel (Rastegari et al. 2016). Integer arithmetic: Jacob et al. 2018,
    sections 2 and 3.
    """

    stage = Stage.ENCODE
    weight_bits: int = axis(32, choice(32, 8, 4), unit="bits per weight")
    """32, 8, 4, 3, 2 or 1; below 4 only if an experiment lists them."""
    activation_bits: int = axis(32, choice(32, 8), unit="bits per activation")
    calibration: str = axis("min-max", choice("min-max"), unit="rule for activation ranges")
    """min-max, percentile or entropy, if the runtime's quantizer offers it."""
    granularity: str = axis("automatic", choice("automatic"), unit="weights sharing a scale")
    """Below 8 bits: channel, group (64 inputs), or automatic: groups in linear layers only, and
    only from 2 bits on."""
    symmetric: bool = False
    """Below 8 bits: no zero points."""
    calibration_samples: int = 256
    """Training samples from which activation ranges are estimated."""

    def __post_init__(self) -> None:
        for field, allowed in (
            ("weight_bits", WEIGHT_BITS),
            ("activation_bits", (32, 8)),
            ("calibration", CALIBRATIONS),
            ("granularity", GRANULARITIES),
        ):
            value = getattr(self, field)
            if value not in allowed:
                *first, last = map(str, allowed)
                raise ValueError(f"{field} must be {', '.join(first)} or {last}, got {value!r}")
        if self.calibration_samples < 1:
            raise ValueError(f"calibration_samples must be > 0, got {self.calibration_samples}")

    def plan(self, plan: Plan) -> Plan:
        """Set the bits, and constrain training to them if they are few."""
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
            grid = Grid(
                weight_bits=self.weight_bits, granularity=self.granularity, symmetric=self.symmetric
            )
            plan = constrained(plan, grid)
        if self.activation_bits == 8:
            tolerance = TOLERANCE if self.weight_bits == 8 else 0.0
            plan = constrained(plan, Activations(tolerance=tolerance))
        return plan

    def canonical(self) -> Self:
        """Return the setting with a neutral calibration and granularity if nothing uses them."""
        setting = self
        if self.activation_bits == 32:
            setting = dataclasses.replace(setting, calibration="min-max")
        if self.weight_bits >= 8:
            setting = dataclasses.replace(setting, granularity="automatic")
        return setting

    def short(self, searched: Collection[str]) -> str:
        """Return the bits of weights and activations together: 8/8 bit."""
        bits = {"weight_bits", "activation_bits"}
        others = super().short([name for name in searched if name not in bits])
        if self.weight_bits == self.activation_bits == 32 or bits.isdisjoint(searched):
            return others
        return f"{self.weight_bits}/{self.activation_bits} bit {others}".rstrip()

    def usual(self) -> tuple[Self, ...]:
        """Return full int8, weight-only int8 and weight-only int4."""
        return tuple(
            dataclasses.replace(self, weight_bits=w, activation_bits=a)
            for w, a in ((8, 8), (8, 32), (4, 32))
        )
