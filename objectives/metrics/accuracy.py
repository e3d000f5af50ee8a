"""Accuracy: the task's score, with a bootstrap interval, or its metric, with a jackknife's."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from objectives.examples import READ_BATCH, Examples
from objectives.fed_metrics import measured
from objectives.intervals import of_score
from objectives.objective import Direction, Measurement, Objective
from objectives.runtime import Program
from spaces.modules import plain, rows

PIECE_BYTES = 2**26
"""Bytes of outputs that are kept at once for a metric, unless one batch has more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy(Objective):
    """The task's score over a whole split, computed on the artifact through its runtime.

    A metric in place of the score is fed batch by batch, so that no outputs of a whole split are
    kept; its interval is that of `objectives.fed_metrics`.
    """

    unit = "score"
    direction = Direction.MAXIMIZE
    superlative = "most-accurate"

    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Measure the score, with an interval over samples.

        Raises ValueError if the score is not finite or has no interval.
        """
        if (metric := examples.metric()) is not None:
            pieces = _pieces(program, examples)
            value, low, high, resamples = measured(metric, len(examples), pieces)
        else:
            value, low, high, resamples = _of_whole_split(program, examples)
        return Measurement(
            value=value,
            unit=self.unit,
            low=low,
            high=high,
            samples=len(examples),
            resamples=resamples,
        )


def _of_whole_split(
    program: Program, examples: Examples
) -> tuple[float, float, float, tuple[float, ...]]:
    """Return the score with its bootstrap interval and the scores of the resamples."""
    outputs = program(examples.inputs)
    value = float(examples.score(outputs, plain(examples.targets)))

    def resampled(index: Tensor) -> float:
        return float(examples.score(rows(outputs, index), plain(rows(examples.targets, index))))

    return value, *of_score(resampled, len(examples), value)


def _pieces(program: Program, examples: Examples) -> Iterator[tuple[int, Any, Any]]:
    """Yield (start, outputs, targets) of consecutive full batches of a split.

    A piece has as many samples as are read at once, but no more than PIECE_BYTES of outputs.
    """
    batch = program.target.batch_size
    values = sum(math.prod(shape) for shape in program.signature.output_shapes)
    fitting = min(READ_BATCH, PIECE_BYTES * batch // (4 * values))
    size = max(1, fitting // batch) * batch
    for start in range(0, len(examples), size):
        piece = slice(start, start + size)
        outputs = program(rows(examples.inputs, piece))
        yield start, outputs, rows(examples.targets, piece)
