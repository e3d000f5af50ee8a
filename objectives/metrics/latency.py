"""Latency: the time of one batch on an undisturbed machine, in milliseconds."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from objectives.objective import Direction, TimedObjective
from objectives.runtime import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency(TimedObjective):
    """Time of one batch at the target on an undisturbed machine, in milliseconds.

    On several devices it is the time of a batch that all of them compute together; for replicas,
    the time of one replica's batch while the other replicas are busy too.
    """

    unit = "ms"
    direction = Direction.MINIMIZE
    is_time = True
    better = ("faster", "slower")
    superlative = "fastest"

    def observe(self, program: Program, batches: Sequence[Any], seconds: float) -> list[float]:
        """Return the milliseconds of single runs, until `seconds` have passed."""
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            times.append(1e3 * program.seconds(batches[len(times) % len(batches)]))
        return times
