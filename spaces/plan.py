"""The plan of a candidate: settings of training, encoding and deployment, as plain data."""

import dataclasses

from spaces.constraint import Constraint

Precision = str
"""Name of a floating-point type: one of `precision.compute`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recovery:
    """Settings of recovery training against the uncompressed model; steps = 0 is no training."""

    steps: int = 0
    """Optimizer steps."""
    temperature: float = 1.0
    """Divisor of both models' logits in the distillation term."""
    teacher_weight: float = 0.0
    """Share of the distillation term in the loss, 0..1; 0 is plain fine-tuning."""
    learning_rate: float = 0.0
    """Peak of the schedule; 0 lets the loop choose by the kind of model."""
    batch_size: int = 0
    """Samples per step; 0 lets the loop choose by the model's operations."""
    hard_labels: bool = False
    """Whether the distillation term uses the teacher's most probable class as the label."""
    feature_weight: float = 0.0
    """Factor of the feature term, which is added to the loss; 0 compares no features."""
    feature_layers: int = 0
    """Largest number of layers whose features are compared; 0 compares all candidates."""
    feature_relations: bool = False
    """Whether the feature term also compares the relations of tokens in attention layers."""
    dtype: str = "auto"
    """Type of the arithmetic: auto, float32, bfloat16, float16 or float8; weights stay float32."""
    devices: int = 1
    """Devices that share each batch; the result equals that of one device, up to rounding."""
    sharding: str = "auto"
    """On several devices: replicate the model, shard it, or auto: shard it if it does not fit."""
    constraints: tuple[Constraint, ...] = ()
    """Properties that training preserves, in the order in which they are put on the model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """Number formats in which the artifact stores weights and computes layers."""

    weight_bits: int = 32
    """Bits of a stored weight of a linear or convolution layer; 32 is unquantized."""
    activation_bits: int = 32
    """Bits of the activations that enter those layers; 32 is unquantized."""
    dtype: Precision = "float32"
    """Floating-point type of all computations that do not use integers."""
    calibration_samples: int = 256
    """Training samples from which activation ranges are estimated."""
    calibration: str = "min-max"
    """Rule for activation ranges: min-max, percentile or entropy."""
    granularity: str = "automatic"
    """Weights that share a scale below 8 bits: channel, group, or automatic (groups in linear
    layers, channels in others)."""
    symmetric: bool = False
    """Whether weights below 8 bits have no zero points."""
    mean_bits: float = 32
    """Average bits of a stored weight, with a width for each layer; 32 is unquantized."""
    widths: tuple[tuple[str, int], ...] = ()
    """(weight's name, bits), once `mean_bits` has been allocated to the weights."""
    cluster_bits: int = 32
    """Bits of an index into a layer's codebook of weights; 32 is without codebooks."""
    coding: str = "none"
    """Entropy coder of the artifact's files."""

    @property
    def quantized(self) -> bool:
        """True if weights or activations are stored or computed as integers."""
        return self.packed or self.weight_bits < 32 or self.activation_bits < 32

    @property
    def packed(self) -> bool:
        """True if weights are codes of few bits, which are computed before the export."""
        return self.weight_bits < 8 or self.mean_bits < 32 or self.cluster_bits < 32

    @property
    def clash(self) -> str | None:
        """The reason why these settings exclude each other, one sentence; None if they do not."""
        settings = {
            f"quantize.integer weight_bits = {self.weight_bits}": self.weight_bits < 32,
            f"quantize.mixed mean_bits = {self.mean_bits:g}": self.mean_bits < 32,
            f"quantize.clusters bits = {self.cluster_bits}": self.cluster_bits < 32,
        }
        active = [name for name, quantizes in settings.items() if quantizes]
        if len(active) < 2:
            return None
        return f"a weight is stored in one way, and {' and '.join(active)} are two"


STRATEGIES = ("auto", "data", "tensor", "pipeline")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Devices that run the artifact, and the strategy by which they share the work."""

    count: int = 1
    """Number of devices: GPUs, or on a CPU processes with separate cores."""
    strategy: str = "auto"
    """One of STRATEGIES; auto is decided when the artifact is loaded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All settings of a candidate besides its shape."""

    recovery: Recovery = Recovery()
    encoding: Encoding = Encoding()
    placement: Placement = Placement()
    runtime: str = "eager"
