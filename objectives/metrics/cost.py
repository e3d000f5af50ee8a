"""Cost: device-seconds per 1,000 samples."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from objectives.metrics.throughput import Throughput
from objectives.objective import Direction, TimedObjective
from objectives.runtime import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost(TimedObjective):
    """Device-seconds per 1,000 samples in a stream of batches: 1000 x devices / throughput.

    Doubling the devices leaves the cost unchanged only if it doubles the throughput.
    """

    unit = "device-s"
    direction = Direction.MINIMIZE
    better = ("cheaper", "more expensive")
    superlative = "cheapest"

    def observe(self, program: Program, batches: Sequence[Any], seconds: float) -> list[float]:
        """Return the cost over each part of a stream."""
        rates = Throughput().observe(program, batches, seconds)
        return [1000 * program.devices / rate for rate in rates]
