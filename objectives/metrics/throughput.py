"""Throughput: samples per second over all devices."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from objectives.objective import Direction, TimedObjective
from objectives.runtime import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Throughput(TimedObjective):
    """Samples per second over all devices, in a stream of batches of the target's size."""

    unit = "samples/s"
    direction = Direction.MAXIMIZE
    better = ("the throughput", "less throughput")
    superlative = "fastest"

    def observe(self, program: Program, batches: Sequence[Any], seconds: float) -> list[float]:
        """Return the rate over each part of a stream."""
        size = program.target.batch_size
        return [size * rate for rate in program.stream(batches, seconds)]
