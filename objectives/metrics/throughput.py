"""How many samples all devices get through in a second."""

import dataclasses

from objectives.examples import Examples
from objectives.objective import Direction, TimedObjective, feeds
from objectives.runtime import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Throughput(TimedObjective):
    """Samples per second over all devices, with batches of the target's size streaming."""

    unit = "samples/s"
    direction = Direction.MAXIMIZE
    better = ("the throughput", "less throughput")
    superlative = "fastest"

    def observe(self, program: Program, examples: Examples, seconds: float) -> list[float]:
        """Return the rates of parts of a stream, after a warm-up."""
        batches = feeds(program, examples)
        for batch in batches[:2]:
            program.seconds(batch)
        size = program.target.batch_size
        return [size * rate for rate in program.stream(batches, seconds)]
