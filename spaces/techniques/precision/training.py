"""The floating-point type of recovery training: automatic mixed precision."""

import dataclasses
from typing import Self

from spaces import Outputs, Plan, Stage, Technique, axis, choice
from spaces.training import TYPES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Technique):
    """Compute forward and backward passes of recovery training in this type.

    Weights, gradients and optimizer state stay float32; the artifact does not depend on it. auto
    is bfloat16 where the hardware gains from it and float32 elsewhere. float16 scales its loss,
    so that small gradients survive; float8 is for linear layers alone, the rest is bfloat16.
    Sources: Micikevicius et al. 2018, sections 3.1 and 3.2 (master weights, loss scaling);
    Kalamkar et al. 2019, section 3 (bfloat16); Micikevicius et al. 2022, section 3 (float8).
    """

    stage = Stage.TRAIN
    dtype: str = axis("auto", choice(*TYPES), unit="floating-point type")

    def __post_init__(self) -> None:
        if self.dtype not in TYPES:
            raise ValueError(f"dtype must be one of {', '.join(TYPES)}, got {self.dtype!r}")

    def plan(self, plan: Plan) -> Plan:
        """Ask for this type."""
        recovery = dataclasses.replace(plan.recovery, dtype=self.dtype)
        return dataclasses.replace(plan, recovery=recovery)

    def settled(self, plan: Plan, outputs: Outputs) -> Self:
        """Return the neutral setting where nothing is trained."""
        del outputs
        return self if plan.recovery.steps else dataclasses.replace(self, dtype="auto")
