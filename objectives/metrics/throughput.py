"""Throughput: samples per second over all devices."""

import dataclasses

from objectives.examples import Examples
from objectives.objective import Direction, TimedObjective, feeds
from objectives.runtime import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Throughput(TimedObjective):
    """Samples per second over all devices, in a stream of batches of the target's size."""

    unit = "samples/s"
    direction = Direction.MAXIMIZE
    better = ("the throughput", "less throughput")
    superlative = "fastest"

    def observe(self, program: Program, examples: Examples, seconds: float) -> list[float]:
        """Return the rate over each part of a stream, after a warm-up."""
        batches = feeds(program, examples)
        for batch in batches[:2]:
            program.seconds(batch)
        size = program.target.batch_size
        return [size * rate for rate in program.stream(batches, seconds)]
