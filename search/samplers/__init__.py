"""Catalogue of samplers, which propose new points after the opening."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from spaces import Point, Space

__all__ = ["Features", "History", "Observation", "Sampler", "State"]

State = Literal["complete", "pruned", "failed", "running"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """One trial as a sampler sees it."""

    point: Point
    state: State
    losses: tuple[float, ...] | None = None
    """One value for each objective, lower is better; None unless the trial is complete."""
    partial: tuple[float | None, ...] | None = None
    """Losses as far as they were measured, of complete and of pruned trials; None if none was."""
    deviations: tuple[float | None, ...] | None = None
    """Standard deviation of the noise of each of `partial`; None where it is unknown."""
    seconds: float | None = None
    """Wall time of the trial; None if it has not ended or was not evaluated."""
    violations: tuple[float, ...] = ()
    """Violation of each constraint; at most 0 is satisfied. The last one is above 0 if no runtime
    can execute the point. Running trials have none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """What is known of some points before they are evaluated, as numbers."""

    values: NDArray[np.float64]
    """Points x features, finite."""
    groups: tuple[str, ...]
    """The group of each feature; features of a group are alike in kind and scale."""
    minor: frozenset[str] = frozenset()
    """Groups of details, which matter less than totals before there is evidence."""
    training: frozenset[str] = frozenset()
    """Groups that describe recovery training, on which only trained objectives depend."""
    execution: frozenset[str] = frozenset()
    """Groups that describe how an artifact is executed, on which trained objectives hardly
    depend."""
    timing: frozenset[str] = frozenset()
    """Groups that trained objectives do not depend on at all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """The trials that a sampler may learn from."""

    space: Space
    objectives: int
    """Number of objectives."""
    observations: Sequence[Observation]
    """All trials in the order of their numbers; a point may occur more than once."""
    trained: tuple[bool, ...] | None = None
    """For each objective, whether recovery training changes it; None if unknown."""
    bounds: tuple[float | None, ...] | None = None
    """The largest allowed loss of each objective, None without a limit; None if unknown."""
    reference: tuple[float | None, ...] | None = None
    """Loss of each objective from which on a point is of no use; None where that is unknown."""
    ideal: tuple[float | None, ...] | None = None
    """Loss of each objective below which less is worth no more; None where less always is."""
    factors: tuple[bool, ...] | None = None
    """For each objective, whether gains are factors rather than differences; None: differences."""
    features: Callable[[Sequence[Point]], Features] | None = None
    """Describes points; None if nothing is known but their values."""
    accept: Callable[[Point], bool] | None = None
    """False for points that are known or that nothing can execute; None if that is unknown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(abc.ABC):
    """A rule that proposes the next point; its fields are settings of an experiment."""

    learns: ClassVar[bool] = True
    """False if proposals do not depend on what was observed."""
    selective: ClassVar[bool] = True
    """False if every proposal must be evaluated, also a training that cannot help."""

    @abc.abstractmethod
    def propose(self, history: History, seed: int) -> Point | None:
        """Return the point to try next, or None if there is nothing to propose.

        `seed` differs between trials and rises with them; the same history and seed give the same
        point. A point with a record is answered from it, and the sampler is called again.
        """

    def remark(self, history: History) -> str | None:
        """Return a sentence for the user about how points are proposed now, or None."""
        del history
        return None
