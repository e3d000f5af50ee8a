"""Memory: the peak bytes that one device needs for the artifact."""

import dataclasses

from objectives.examples import Examples
from objectives.objective import Direction, Measurement, Objective, feeds
from objectives.runtime import Program

REPEATS = 3
"""Repetitions of a measurement."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory(Objective):
    """Peak bytes that one device needs while the artifact runs batches of the target's size.

    On a CPU it is the peak memory of a separate process minus its memory before it loaded the
    artifact. Weights (also those mapped from the artifact's files), activations and workspaces
    count; the code of libraries and memory that only loading needs do not. On a GPU it is the peak
    that PyTorch has allocated. Of several devices, the one that needs most counts.
    """

    unit = "bytes"
    direction = Direction.MINIMIZE
    trained = False
    positive = True
    better = ("less memory", "more memory")
    superlative = "smallest"
    apart = True

    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Measure the largest of a few repetitions; the interval spans all of them."""
        batches = feeds(program, examples)
        peaks = [float(program.memory(batches)) for _ in range(REPEATS)]
        return Measurement(
            value=max(peaks), unit=self.unit, low=min(peaks), high=max(peaks), samples=REPEATS
        )
