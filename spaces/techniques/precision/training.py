"""The floating-point type of recovery training: automatic mixed precision."""

import dataclasses
from typing import Self

from spaces import Outputs, Plan, Stage, Technique, axis, choice
from spaces.training import TYPES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Technique):
    """Compute the forward and backward passes of recovery training in this type.

    Weights, gradients and optimizer state stay float32; the artifact does not depend on the type.
    auto is bfloat16 if the hardware gains from it, and float32 otherwise. float16 scales the loss,
    so that small gradients do not vanish; float8 is for linear layers only, the rest is bfloat16.
    Sources: Micikevicius et al. 2018, sections 3.1 and 3.2 (master weights, loss scaling);
    Kalamkar et al. 2019, section 3 (bfloat16); Micikevicius et al. 2022, section 3 (float8).
    """

    stage = Stage.TRAIN
    dtype: str = axis("auto", choice(*TYPES), unit="floating-point type")

    def __post_init__(self) -> None:
        if self.dtype not in TYPES:
            raise ValueError(f"dtype must be one of {', '.join(TYPES)}, got {self.dtype!r}")

    def plan(self, plan: Plan) -> Plan:
        """Set the type of training."""
        recovery = dataclasses.replace(plan.recovery, dtype=self.dtype)
        return dataclasses.replace(plan, recovery=recovery)

    def settled(self, plan: Plan, outputs: Outputs) -> Self:
        """Return the neutral setting if nothing is trained."""
        del outputs
        return self if plan.recovery.steps else dataclasses.replace(self, dtype="auto")
