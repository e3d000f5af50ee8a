"""The catalogue of samplers: where new points come from once the opening has been tried."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Literal

from spaces import Point, Space

__all__ = ["History", "Observation", "Sampler", "State"]

State = Literal["complete", "pruned", "failed", "running"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """One trial as a sampler sees it."""

    point: Point
    state: State
    losses: tuple[float, ...] | None = None
    """One value for each objective, lower is better; only of complete trials."""
    violations: tuple[float, ...] = ()
    """How far each constraint is overstepped; at most 0 is satisfied. The last says whether a
    runtime can execute the point, which only those lack that are still running."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """What a sampler may learn from."""

    space: Space
    objectives: int
    """How many there are."""
    observations: Sequence[Observation]
    """All trials in the order in which they were asked; the same point may occur again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(abc.ABC):
    """A rule for the next point; its fields are settings of an experiment."""

    @abc.abstractmethod
    def propose(self, history: History, seed: int) -> Point | None:
        """Return the point to try next, None where there is nothing to propose.

        `seed` is another one for every trial: the same history and seed give the same point. A
        point that was tried before is answered from its record, and another one is asked for.
        """
