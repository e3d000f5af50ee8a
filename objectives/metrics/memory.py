"""The memory that a device needs for the artifact."""

import dataclasses

from objectives.examples import Examples
from objectives.objective import Direction, Measurement, Objective, feeds
from objectives.runtime import Program

REPEATS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory(Objective):
    """Most bytes that one device needs while the artifact runs batches of the target's size.

    On a CPU it is what a process of its own holds at most beyond what it held before it loaded
    the artifact: weights, also where they are mapped from the artifact's files, activations and
    workspaces; not the libraries' code, and not what loading needed for a moment. On a GPU it is
    what PyTorch has allocated there at most. With several devices the one that needs most counts.
    """

    unit = "bytes"
    direction = Direction.MINIMIZE
    trained = False
    positive = True
    better = ("less memory", "more memory")
    superlative = "smallest"
    apart = True

    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Return the largest of a few repetitions; the interval holds them all."""
        batches = feeds(program, examples)
        found = [float(program.memory(batches)) for _ in range(REPEATS)]
        return Measurement(
            value=max(found), unit=self.unit, low=min(found), high=max(found), samples=REPEATS
        )
