"""The time of one batch at the target."""

import dataclasses
import time
from typing import Any

import numpy as np

from objectives._data import Examples
from objectives._objective import Direction, Measurement, Objective
from objectives._statistics import of_median
from objectives.runtimes._runtime import Program
from spaces._inputs import flatten, rows

BATCHES = 8
"""Different batches that are timed in turn, so that no input is special."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency(Objective):
    """Median time of one batch at the target, in milliseconds."""

    unit = "ms"
    direction = Direction.MINIMIZE
    trained = False
    positive = True
    seconds: float = 0.8
    """Time to spend on timed runs, once 20 have been taken."""

    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Return the median over timed runs with a block-bootstrap interval."""
        return self.summary(self.times(program, examples, self.seconds))

    def times(self, program: Program, examples: Examples, seconds: float) -> list[float]:
        """Return the milliseconds of at least 20 single runs, after a warm-up."""
        feeds = self.feeds(program, examples)
        _repeat(program, feeds, seconds=min(0.2, seconds), least=5)
        return _repeat(program, feeds, seconds=seconds, least=20)

    def feeds(self, program: Program, examples: Examples) -> list[Any]:
        """Return batches in the runtime's own form."""
        size = program.target.batch_size
        count = max(1, min(BATCHES, len(examples) // size))
        if len(examples) < size:
            raise ValueError(f"the split has {len(examples)} samples, one batch needs {size}")
        chunks = [rows(examples.inputs, slice(i * size, (i + 1) * size)) for i in range(count)]
        return [program.feed([t.contiguous() for t in flatten(chunk)[0]]) for chunk in chunks]

    def summary(self, times: list[float]) -> Measurement:
        """Return the median of milliseconds."""
        low, high = of_median(times)
        return Measurement(
            value=float(np.median(times)), unit=self.unit, low=low, high=high, samples=len(times)
        )


def _repeat(program: Program, feeds: list[Any], *, seconds: float, least: int) -> list[float]:
    """Return the milliseconds of runs until `least` are taken and `seconds` have passed."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        times.append(1e3 * program.seconds(feeds[len(times) % len(feeds)]))
        if len(times) >= 20_000:
            break
    return times
