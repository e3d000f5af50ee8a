"""Depth pruning: drop whole residual or transformer blocks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Self

from torch import nn

from spaces.dimension import axis, choice
from spaces.memory import FORGETFUL, Memory
from spaces.modules import drop, evaluating, identity, reestimate, samples
from spaces.modules.structure import Snapshot
from spaces.pruning import ReferenceOutputs, find, incomparable, least
from spaces.task import Task
from spaces.technique import Infeasible, Scope, Stage, Technique


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers(Technique):
    """Drop whole blocks one by one, always the one whose removal does the least damage.

    The input of a dropped block passes on to the next one; its weights are removed. The damage to
    the outputs is measured on training samples, without labels, again after every block. Source:
    greedy removal as in Song et al. 2024, SLEB, section 3; residual networks tolerate it (Veit et
    al. 2016).
    """

    stage = Stage.SHAPE
    count: int = axis(0, choice(0, 1, 2, 3, 4), unit="blocks dropped", short="depth -{value}")

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 0:
            raise ValueError(f"count must be 0 or more blocks, got {self.count!r}")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the edited model; what other settings need is computed anew."""
        return self.edit(model, task, FORGETFUL)

    def edit(self, model: nn.Module, task: Task, memory: Memory) -> nn.Module:
        """Return `model` without `count` of its blocks, with new normalisation statistics.

        Raises Infeasible if fewer blocks can be dropped, or if outputs cannot be compared.
        """
        if self.count == 0:
            return model
        with evaluating(model):
            self._drop(model, task, memory)
        reestimate(model, task, memory=memory)
        return model

    def _drop(self, model: nn.Module, task: Task, memory: Memory) -> None:
        """Drop blocks one by one: a larger count starts with the blocks of a smaller one."""
        blocks = find(model, samples.example(task, memory))
        if len(blocks) < self.count:
            raise Infeasible(
                f"{self.count} blocks are to be dropped, and the model has {len(blocks)} that "
                "add to what they are given and that it works without",
                scope=Scope.POINT if blocks else Scope.TECHNIQUE,
            )
        whole, outputs = identity(model), _lazily(model, task)
        for _ in range(self.count):
            name = memory.remembered(
                "block",
                {"model": whole, "kept": [block.name for block in blocks]},
                lambda: least(model, blocks, outputs())[0].name,
            )
            block = next(b for b in blocks if b.name == name)
            drop(block.module, block.returns)
            blocks.remove(block)

    def usual(self) -> tuple[Self, ...]:
        """Return one and two dropped blocks."""
        return tuple(dataclasses.replace(self, count=count) for count in (1, 2))


def _lazily(model: nn.Module, task: Task) -> Callable[[], ReferenceOutputs]:
    """Return a function that measures the outputs of `model` as it is now, at its first call."""
    whole = Snapshot(model)

    @functools.cache
    def outputs() -> ReferenceOutputs:
        changed = Snapshot(model)
        whole.restore()
        try:
            measured = ReferenceOutputs(model, task)
        finally:
            changed.restore()
        if reason := incomparable(model, task, FORGETFUL):
            raise Infeasible(f"no block can be chosen: {reason}", scope=Scope.TECHNIQUE)
        return measured

    return outputs
