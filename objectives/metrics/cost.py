"""Cost: device-seconds per 1,000 samples."""

import dataclasses

from objectives.examples import Examples
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

    def observe(self, program: Program, examples: Examples, seconds: float) -> list[float]:
        """Return the cost over each part of a stream, after a warm-up."""
        rates = Throughput().observe(program, examples, seconds)
        return [1000 * program.devices / rate for rate in rates]
