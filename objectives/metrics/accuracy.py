"""Accuracy: the task's score, with a bootstrap interval."""

import dataclasses

from torch import Tensor

from objectives.examples import Examples
from objectives.intervals import of_score
from objectives.objective import Direction, Measurement, Objective
from objectives.runtime import Program
from spaces.modules import plain, rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy(Objective):
    """The task's score over a whole split, computed on the artifact through its runtime."""

    unit = "score"
    direction = Direction.MAXIMIZE
    superlative = "most-accurate"

    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Measure the score, with a bootstrap interval over samples.

        Raises ValueError if the score is not finite or has no interval.
        """
        outputs = program(examples.inputs)
        value = float(examples.score(outputs, plain(examples.targets)))

        def resampled(index: Tensor) -> float:
            return float(examples.score(rows(outputs, index), plain(rows(examples.targets, index))))

        low, high, resamples = of_score(resampled, len(examples), value)
        return Measurement(
            value=value,
            unit=self.unit,
            low=low,
            high=high,
            samples=len(examples),
            resamples=resamples,
        )
