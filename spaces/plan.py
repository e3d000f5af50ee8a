"""What the stages after SHAPE are asked to do: plain data that every technique adds to."""

import dataclasses

from spaces.constraint import Constraint

Precision = str
"""Name of a torch floating-point type: float32, bfloat16 or float16."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recovery:
    """How the shaped model is trained against the uncompressed one; steps = 0 is no training."""

    steps: int = 0
    """Optimizer steps."""
    temperature: float = 1.0
    """Divisor of both models' logits in the distillation term."""
    teacher_weight: float = 0.0
    """Share of the distillation term in the loss, 0..1; 0 is plain fine-tuning."""
    learning_rate: float = 0.0
    """Peak of the schedule; 0 lets the loop choose by the kind of model."""
    batch_size: int = 0
    """Samples a step; 0 lets the loop choose by the model's operations."""
    hard_labels: bool = False
    """Whether the teacher's term takes the teacher's most probable class for a label."""
    feature_weight: float = 0.0
    """Factor of the features' term, which is added to the loss; 0 compares no features."""
    feature_layers: int = 0
    """Most layers whose features are compared; 0 is all that the rule names."""
    feature_relations: bool = False
    """Whether the features' term also compares how tokens relate in attention layers."""
    dtype: str = "auto"
    """Type of the arithmetic: auto, float32, bfloat16, float16 or float8; weights stay float32."""
    devices: int = 1
    """Devices that share each batch; the result is that of one, up to rounding."""
    sharding: str = "auto"
    """On several devices: replicate the model, shard it, or auto: shard where it does not fit."""
    constraints: tuple[Constraint, ...] = ()
    """What training must not undo, in the order in which it is put on the model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """How numbers are stored and computed in the artifact."""

    weight_bits: int = 32
    """Bits of a stored weight of a linear or convolution layer; 32 is unquantized."""
    activation_bits: int = 32
    """Bits of the activations that enter those layers; 32 is unquantized."""
    dtype: Precision = "float32"
    """Type in which everything that is not an integer is computed."""
    calibration_samples: int = 256
    """Training samples from which activation ranges are estimated."""
    calibration: str = "min-max"
    """How a range follows from what was observed: min-max, percentile or entropy."""
    granularity: str = "automatic"
    """What shares a scale below 8 bits: channel, group, or automatic (groups in linear layers)."""
    symmetric: bool = False
    """Whether weights below 8 bits have no zero points."""
    mean_bits: float = 32
    """Bits of a stored weight on average, each layer having its own; 32 is unquantized."""
    widths: tuple[tuple[str, int], ...] = ()
    """The bits of each weight by name, once a mean has been allocated to them."""
    cluster_bits: int = 32
    """Bits of an index into a layer's codebook of weights; 32 is without codebooks."""
    coding: str = "none"
    """Entropy coder of the artifact's files."""

    @property
    def quantized(self) -> bool:
        """Whether any integer is asked for."""
        return self.packed or self.weight_bits < 32 or self.activation_bits < 32

    @property
    def packed(self) -> bool:
        """Whether weights are codes of few bits that are found before a runtime is asked."""
        return self.weight_bits < 8 or self.mean_bits < 32 or self.cluster_bits < 32

    @property
    def clash(self) -> str | None:
        """Why these settings exclude each other, in one sentence; None if they do not."""
        asked = {
            f"quantize.integer weight_bits = {self.weight_bits}": self.weight_bits < 32,
            f"quantize.mixed mean_bits = {self.mean_bits:g}": self.mean_bits < 32,
            f"quantize.clusters bits = {self.cluster_bits}": self.cluster_bits < 32,
        }
        found = [name for name, given in asked.items() if given]
        if len(found) < 2:
            return None
        return f"a weight is stored in one way, and {' and '.join(found)} are two"


STRATEGIES = ("auto", "data", "tensor", "pipeline")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """On how many devices the artifact runs, and how they share the work."""

    count: int = 1
    """Devices: GPUs, or on a CPU processes with cores of their own."""
    strategy: str = "auto"
    """One of STRATEGIES; auto is decided when the artifact is loaded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything asked of a candidate once its shape is settled."""

    recovery: Recovery = Recovery()
    encoding: Encoding = Encoding()
    placement: Placement = Placement()
    runtime: str = "eager"
