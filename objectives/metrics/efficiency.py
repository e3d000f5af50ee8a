"""Efficiency: the time that this host's ceilings allow, as a share of the time taken."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from objectives.metrics.latency import Latency
from objectives.objective import Direction, TimedObjective
from objectives.roofline import ceilings_of
from objectives.runtime import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Efficiency(TimedObjective):
    """Time that the roofline allows a batch, as a share of the time taken, 1 at the ceiling.

    The roofline allows the longer one of operations / fastest matrix product and bytes / fastest
    copy, both measured on the host (Williams et al. 2009, Roofline: an insightful visual
    performance model for multicore architectures). Operations are those of the candidate's own
    layers, so that a smaller model is not more efficient for being smaller. A share above 1 is
    kept: the ceilings were measured while the host was slower, or the runtime has better kernels.
    """

    unit = "of ceiling"
    direction = Direction.MAXIMIZE
    better = ("the efficiency", "less efficient")
    superlative = "most-efficient"

    def observe(self, program: Program, batches: Sequence[Any], seconds: float) -> list[float]:
        """Return the shares of single runs.

        Raises ValueError if the operations of the program are not known.
        """
        allowed = allowed_seconds(program)
        times = Latency().observe(program, batches, seconds)
        return [1e3 * allowed / milliseconds for milliseconds in times]


def allowed_seconds(program: Program) -> float:
    """Return the seconds that the roofline allows a batch of a program, on all its devices.

    Raises ValueError if the operations of the program are not known.
    """
    if program.work is None:
        raise ValueError("efficiency needs operations, which were not counted at the export")
    if reason := program.work.unknown:
        raise ValueError(reason)
    allowed = ceilings_of(program.target).seconds(program.work)
    # Replicas compute a batch each; with other strategies all devices share one.
    shared = program.placement().get("strategy", "data") != "data"
    return allowed / program.devices if shared else allowed
