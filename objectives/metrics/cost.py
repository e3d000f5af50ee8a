"""What a thousand samples cost in devices' time."""

import dataclasses

from objectives.examples import Examples
from objectives.metrics.throughput import Throughput
from objectives.objective import Direction, TimedObjective
from objectives.runtime import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost(TimedObjective):
    """Device-seconds per 1,000 samples, with batches streaming: 1000 x devices / throughput.

    A second device costs as much as the first, so that it must double the throughput to be free.
    """

    unit = "device-s"
    direction = Direction.MINIMIZE
    better = ("cheaper", "more expensive")
    superlative = "cheapest"

    def observe(self, program: Program, examples: Examples, seconds: float) -> list[float]:
        """Return the costs in parts of a stream, after a warm-up."""
        rates = Throughput().observe(program, examples, seconds)
        return [1000 * program.devices / rate for rate in rates]
