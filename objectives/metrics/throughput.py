"""How many samples all devices get through in a second."""

import dataclasses

from objectives.examples import Examples
from objectives.objective import Direction, Measurement, Objective, feeds
from objectives.runtime import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Throughput(Objective):
    """Samples per second over all devices, with batches of the target's size streaming."""

    unit = "samples/s"
    direction = Direction.MAXIMIZE
    trained = False
    positive = True
    timed = True
    seconds: float = 0.8
    """Time for which batches stream; several processes share it."""

    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Return the median over parts of the stream in this process alone."""
        seen = self.observe(program, examples, self.seconds)
        return self.summary([seen], program.target.device)

    @property
    def budget(self) -> float:
        """Seconds of timed runs."""
        return self.seconds

    def observe(self, program: Program, examples: Examples, seconds: float) -> list[float]:
        """Return the rates of parts of a stream, after a warm-up."""
        batches = feeds(program, examples)
        for batch in batches[:2]:
            program.seconds(batch)
        size = program.target.batch_size
        return [size * rate for rate in program.stream(batches, seconds)]
