"""Catalogue of samplers, which propose new points after the opening."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

from spaces import Point, Space

__all__ = ["History", "Observation", "Sampler", "State"]

State = Literal["complete", "pruned", "failed", "running"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """One trial as a sampler sees it."""

    point: Point
    state: State
    losses: tuple[float, ...] | None = None
    """One value for each objective, lower is better; None unless the trial is complete."""
    violations: tuple[float, ...] = ()
    """Violation of each constraint; at most 0 is satisfied. The last one is above 0 if no runtime
    can execute the point. Running trials have none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """The trials that a sampler may learn from."""

    space: Space
    objectives: int
    """Number of objectives."""
    observations: Sequence[Observation]
    """All trials in the order of their numbers; a point may occur more than once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(abc.ABC):
    """A rule that proposes the next point; its fields are settings of an experiment."""

    learns: ClassVar[bool] = True
    """False if proposals do not depend on what was observed."""

    @abc.abstractmethod
    def propose(self, history: History, seed: int) -> Point | None:
        """Return the point to try next, or None if there is nothing to propose.

        `seed` differs between trials and rises with them; the same history and seed give the same
        point. A point with a record is answered from it, and the sampler is called again.
        """
