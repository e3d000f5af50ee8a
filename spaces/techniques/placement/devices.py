"""How many devices run the artifact, and how they share the work."""

import dataclasses
from typing import Self

from spaces import Placement, Plan, Stage, Technique, axis, choice
from spaces.plan import STRATEGIES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices(Technique):
    """Run on `count` devices: GPUs of one host, or on a CPU processes with cores of their own.

    data: every device has the whole model, and they share a stream of batches. tensor: every
    device has a share of the hidden neurons, heads and inner channels, and adds its part to the
    outputs (Shoeybi et al. 2019, Megatron-LM, section 3). pipeline: every device has consecutive
    layers (Huang et al. 2019, GPipe, section 2). auto: whichever of them a short measurement
    favours when the artifact is loaded. Recovery training uses as many devices.
    """

    stage = Stage.DEPLOY
    count: int = axis(1, choice(1, 2, 4), unit="devices", short="{value} devices")
    strategy: str = axis(
        "auto", choice("auto", "data", "tensor", "pipeline"), unit="parallel strategy"
    )

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1 device, got {self.count}")
        if self.strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise ValueError(f"strategy must be one of {known}, got {self.strategy!r}")

    def plan(self, plan: Plan) -> Plan:
        """Ask for these devices, for recovery training as for inference."""
        recovery = dataclasses.replace(plan.recovery, devices=self.count)
        placement = Placement(count=self.count, strategy=self.strategy)
        return dataclasses.replace(plan, recovery=recovery, placement=placement)

    def canonical(self) -> Self:
        """Return the setting without a strategy where there is nothing to share."""
        return dataclasses.replace(self, strategy="auto") if self.count == 1 else self

    def usual(self) -> tuple[Self, ...]:
        """Return two and four devices that choose how to share."""
        return tuple(dataclasses.replace(self, count=count) for count in (2, 4))
