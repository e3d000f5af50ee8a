"""Latency: the median time of one batch, in milliseconds."""

import dataclasses
import time
from typing import Any

from objectives.examples import Examples
from objectives.objective import Direction, TimedObjective, feeds
from objectives.runtime import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency(TimedObjective):
    """Median time of one batch at the target, in milliseconds.

    On several devices it is the time of a batch that all of them compute together; for replicas,
    the time of one replica's batch while the other replicas are busy too.
    """

    unit = "ms"
    direction = Direction.MINIMIZE
    is_time = True
    better = ("faster", "slower")
    superlative = "fastest"

    def observe(self, program: Program, examples: Examples, seconds: float) -> list[float]:
        """Return the milliseconds of single runs after a warm-up.

        There are at least 20, or 7 if `seconds` is one process's share of the measurement.
        """
        batches = feeds(program, examples)
        min_runs = 20 if seconds >= self.seconds else 7
        _repeat(program, batches, seconds=min(0.2, seconds), min_runs=5)
        return _repeat(program, batches, seconds=seconds, min_runs=min_runs)


def _repeat(program: Program, feeds: list[Any], *, seconds: float, min_runs: int) -> list[float]:
    """Return the milliseconds of runs, until `min_runs` runs are done and `seconds` have passed."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < min_runs or time.perf_counter() < end:
        times.append(1e3 * program.seconds(feeds[len(times) % len(feeds)]))
        if len(times) >= 20_000:
            break
    return times
