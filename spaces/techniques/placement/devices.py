"""Run the artifact on several devices by data, tensor or pipeline parallelism."""

import dataclasses
from typing import Self

from spaces import Placement, Plan, Stage, Technique, axis, choice
from spaces.plan import STRATEGIES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices(Technique):
    """Run on `count` devices: GPUs of one host, or on a CPU processes with separate cores.

    data: every device has the whole model, and they share a stream of batches. tensor: every
    device has a share of the hidden neurons, heads and inner channels, and adds its part to the
    outputs (Shoeybi et al. 2019, Megatron-LM, section 3). pipeline: every device has consecutive
    layers (Huang et al. 2019, GPipe, section 2). auto: the fastest of these in a short measurement
    when the artifact is loaded. Recovery training uses the same number of devices.
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
            names = ", ".join(STRATEGIES)
            raise ValueError(f"strategy must be one of {names}, got {self.strategy!r}")

    def plan(self, plan: Plan) -> Plan:
        """Set the devices of recovery training and of inference."""
        recovery = dataclasses.replace(plan.recovery, devices=self.count)
        placement = Placement(count=self.count, strategy=self.strategy)
        return dataclasses.replace(plan, recovery=recovery, placement=placement)

    def canonical(self) -> Self:
        """Return the setting with a neutral strategy if there is one device."""
        return dataclasses.replace(self, strategy="auto") if self.count == 1 else self

    def usual(self) -> tuple[Self, ...]:
        """Return two and four devices."""
        return tuple(dataclasses.replace(self, count=count) for count in (2, 4))
