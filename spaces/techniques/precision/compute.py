"""The floating-point type of inference."""

import dataclasses
from typing import Self

from spaces import Plan, Stage, Technique, axis, choice

TYPES = ("float32", "tf32", "bfloat16", "float16", "float8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute(Technique):
    """Use this type for all computations that do not use integers.

    tf32 keeps float32 numbers and lets tensor cores round the factors of every product to 10 bits;
    float32 is what PyTorch computes by default, which rounds so in convolutions alone.
    With float8 (E4M3, scaled by row and by output), linear layers multiply in float8 and everything
    else is bfloat16.
    Source: Choquette et al. 2021, NVIDIA A100 tensor core GPU, section on TF32; Kalamkar et al.
    2019, section 2 (bfloat16); Micikevicius et al. 2018, section 3 (float16); Micikevicius et al.
    2022, sections 3 and 4 (float8).
    """

    stage = Stage.ENCODE
    dtype: str = axis("float32", choice(*TYPES), unit="floating-point type")

    def __post_init__(self) -> None:
        if self.dtype not in TYPES:
            raise ValueError(f"dtype must be one of {', '.join(TYPES)}, got {self.dtype!r}")

    def plan(self, plan: Plan) -> Plan:
        """Set the type of inference."""
        return dataclasses.replace(
            plan, encoding=dataclasses.replace(plan.encoding, dtype=self.dtype)
        )

    def usual(self) -> tuple[Self, ...]:
        """Return tf32, then the narrower types."""
        return tuple(dataclasses.replace(self, dtype=t) for t in TYPES[1:])
