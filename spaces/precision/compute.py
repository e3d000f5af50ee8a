"""The floating-point type of inference."""

import dataclasses
from typing import Self

from spaces import Plan, Stage, Technique, axis, choice

TYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute(Technique):
    """Compute whatever is not an integer in this type.

    Source: Kalamkar et al. 2019, section 2 (bfloat16); Micikevicius et al. 2018, section 3.
    """

    stage = Stage.ENCODE
    dtype: str = axis(
        "float32", choice("float32", "bfloat16", "float16"), unit="floating-point type"
    )

    def __post_init__(self) -> None:
        if self.dtype not in TYPES:
            raise ValueError(f"dtype must be one of {', '.join(TYPES)}, got {self.dtype!r}")

    def plan(self, plan: Plan) -> Plan:
        """Ask for this type."""
        return dataclasses.replace(
            plan, encoding=dataclasses.replace(plan.encoding, dtype=self.dtype)
        )

    def usual(self) -> tuple[Self, ...]:
        """Return bfloat16, then float16."""
        return tuple(dataclasses.replace(self, dtype=t) for t in ("bfloat16", "float16"))
