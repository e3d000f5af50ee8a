"""What a thousand samples cost in devices' time."""

import dataclasses

from objectives.examples import Examples
from objectives.metrics.throughput import Throughput
from objectives.objective import Direction, Measurement, Objective
from objectives.runtime import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost(Objective):
    """Device-seconds per 1,000 samples, with batches streaming: 1000 x devices / throughput.

    A second device costs as much as the first, so that it must double the throughput to be free.
    """

    unit = "device-s"
    direction = Direction.MINIMIZE
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
        """Return the costs in parts of a stream, after a warm-up."""
        rates = Throughput().observe(program, examples, seconds)
        return [1000 * program.devices / rate for rate in rates]
