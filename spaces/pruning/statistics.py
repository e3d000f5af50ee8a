"""Statistics of a whole model that serve every ratio: damage curves, scores, layers' outputs."""

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from spaces.memory import Memory
from spaces.modules import identity, samples
from spaces.modules.structure import Coupled, Family, readers
from spaces.pruning import allocation
from spaces.pruning.damage import ReferenceOutputs, incomparable, measurable
from spaces.pruning.estimate import Changes
from spaces.pruning.goals import Goals, Recorder, record, recordable
from spaces.pruning.importance import Scores, resolved, scores
from spaces.pruning.surgeon import Curve, curve, order
from spaces.task import Task

_Row = dict[str, Any] | None
"""The fields of a curve; None for a family without one."""


ROUNDS = 24
"""Rounds in which the units of a family are ordered if their damage is estimated."""


class Statistics:
    """Statistics of a model before units are removed, each computed once and kept in a memory.

    The model must be whole, and in evaluation mode, while they are asked for.
    """

    def __init__(self, model: nn.Module, task: Task, memory: Memory) -> None:
        self.model, self.task, self._memory = model, task, memory
        self._recorder: Recorder | None = None

    @functools.cached_property
    def _identity(self) -> str:
        return identity(self.model)

    @functools.cached_property
    def _cost(self) -> float:
        """Operations of one sample."""
        return samples.cost(self.model, self.task, self._memory)

    @property
    def _count(self) -> int:
        """Samples of one pass."""
        return samples.affordable(self._cost, samples.budget(self.model))

    def curves(self, groups: Sequence[Coupled], round_to: int | None) -> list[Curve | None]:
        """Return the order in which each group's units are removed; None if it is unknown.

        The damage is known at a few multiples of `round_to` channels, unless that is None: it is
        measured, or estimated if measurements would take too long. Where outputs have no distance
        it is not, with a warning.
        """
        follows_from = {"model": self._identity, "round_to": round_to}
        rows, reason = self._memory.remembered(
            "curves", follows_from, lambda: self._curves(groups, round_to)
        )
        if reason:
            warnings.warn(f"prune.channels prunes all layers alike: {reason}", stacklevel=2)
        return [None if row is None else Curve(**row) for row in rows]

    def scores(self, criterion: str, families: Sequence[Family]) -> Scores:
        """Return the scores of the channels by a criterion of `importance.scores`."""
        criterion = resolved(criterion, self.model)
        if criterion != "taylor":  # faster than to read it
            return scores(criterion, self.model, self.task, families)
        found: Scores = self._memory.remembered(
            "importance",
            {"model": self._identity, "criterion": criterion},
            lambda: dict(scores(criterion, self.model, self.task, families)),
        )
        return found

    def goals(self, groups: Sequence[Coupled]) -> Goals:
        """Return the outputs of all layers that read units of the groups."""
        recorder, self._recorder = self._recorder, None
        names = _reading(groups)
        return record(
            self.model, self.task, names, self._memory, count=self._count, recorder=recorder
        )

    def _curves(
        self, groups: Sequence[Coupled], round_to: int | None
    ) -> tuple[list[_Row], str | None]:
        """Return the curves' fields, and the reason if damage was to be known and is not."""
        read_by = self._observed(groups)
        families = [group.ways[0] for group in groups]
        marks = [[] if round_to is None else allocation.marks(f, round_to) for f in families]
        reason = None if round_to is None else incomparable(self.model, self.task, self._memory)
        if round_to is None or reason:
            return [_row(curve(family, read_by)) for family in families], reason
        if count := measurable(self.model, self._cost, sum(map(len, marks))):
            outputs = ReferenceOutputs(self.model, self.task, count)
            pairs = zip(families, marks, strict=True)
            return [_row(curve(f, read_by, outputs.distance, m)) for f, m in pairs], None
        return self._estimated(families, marks, read_by), None

    def _observed(self, groups: Sequence[Coupled]) -> dict[str, readers.Reader]:
        """Observe the layers that read units; the same pass records their outputs."""
        names = {m.name for g in groups for m in g.ways[0].members if m.side == "in"}
        runs = {m.name: m.run for g in groups for m in g.ways[0].members if m.side == "in"}
        usable = recordable(self.model, _reading(groups))
        self._recorder = Recorder(self.model, usable, self._count)
        return readers.observe(
            self.model,
            self.task,
            names,
            self._memory,
            count=self._count,
            runs=runs,
            beside=[self._recorder],
        )

    def _estimated(
        self,
        families: Sequence[Family],
        marks: Sequence[Sequence[int]],
        read_by: Mapping[str, readers.Reader],
    ) -> list[_Row]:
        """Return the curves' fields with estimates of the damage, all from the same gradients."""
        changes = Changes(self.model)
        pairs = zip(families, marks, strict=True)
        orders = [order(family, read_by, changes.note, m, ROUNDS) for family, m in pairs]
        damages = changes.damages(self.task, self._cost)
        return [found and _row(_curve(*found, damages)) for found in orders]


def _curve(
    units: tuple[int, ...], noted: Sequence[tuple[int, int]], damages: Sequence[float]
) -> Curve:
    """Return a curve with the damages of the changes that were noted: (removed units, number)."""
    known = ((count, damages[number]) for count, number in noted)
    return Curve(order=units, measured=((0, 0.0), *known))


def _reading(groups: Sequence[Coupled]) -> set[str]:
    """Return the names of all layers that read units of the groups."""
    members = (m for group in groups for way in group.ways for m in way.members)
    return {m.name for m in members if m.side == "in"}


def _row(found: Curve | None) -> _Row:
    return None if found is None else dataclasses.asdict(found)
