"""Statistics of a whole model that serve every ratio: damage curves, scores, layers' outputs."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from spaces.memory import Memory
from spaces.modules import identity
from spaces.modules.structure import Coupled, Family, readers
from spaces.pruning import allocation
from spaces.pruning.damage import ReferenceOutputs
from spaces.pruning.goals import Goals, record
from spaces.pruning.importance import Scores, resolved, scores
from spaces.pruning.surgeon import Curve, curve
from spaces.task import Task

_Row = dict[str, Any] | None
"""The fields of a curve; None for a family without one."""


class Statistics:
    """Statistics of a model before units are removed, each computed once and kept in a memory.

    The model must be whole, and in evaluation mode, while they are asked for.
    """

    def __init__(self, model: nn.Module, task: Task, memory: Memory) -> None:
        self.model, self.task, self._memory = model, task, memory

    @functools.cached_property
    def _identity(self) -> str:
        return identity(self.model)

    def curves(self, families: Sequence[Family], round_to: int | None) -> list[Curve | None]:
        """Return the order in which each family's units are removed; None if it is unknown.

        The damage is measured at a few multiples of `round_to` channels, unless that is None.
        Where outputs have no distance it is not, with a warning.
        """
        follows_from = {"model": self._identity, "round_to": round_to}
        rows, reason = self._memory.remembered(
            "curves", follows_from, lambda: self._curves(families, round_to)
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
        members = (m for group in groups for way in group.ways for m in way.members)
        names = {m.name for m in members if m.side == "in"}
        return record(self.model, self.task, names, self._memory)

    def _curves(
        self, families: Sequence[Family], round_to: int | None
    ) -> tuple[list[_Row], str | None]:
        """Return the curves' fields, and the reason if damage was to be measured and is not."""
        names = {m.name for f in families for m in f.members if m.side == "in"}
        read_by = readers.observe(self.model, self.task, names, self._memory)
        if round_to is None:
            return [_row(curve(family, read_by)) for family in families], None
        outputs = ReferenceOutputs(self.model, self.task)
        if reason := outputs.incomparable():
            return [_row(curve(family, read_by)) for family in families], reason
        marks = [allocation.marks(family, round_to) for family in families]
        pairs = zip(families, marks, strict=True)
        return [_row(curve(f, read_by, outputs.distance, m)) for f, m in pairs], None


def _row(found: Curve | None) -> _Row:
    return None if found is None else dataclasses.asdict(found)
