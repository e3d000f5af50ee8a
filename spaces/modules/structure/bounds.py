"""Bounds of torch-pruning's searches for coupled layers, some of which would not end."""

from collections.abc import Iterable, Iterator
from typing import Any

STEPS = 5_000
"""Steps of one search for coupled layers: those of the largest networks take some hundreds."""


class Endless(RuntimeError):
    """A search that goes around in circles, as it does where halves of channels change places."""


class _Budget:
    """Steps that are left of a search."""

    left = 0

    def take(self) -> None:
        """Take one step; raises Endless when none is left."""
        if self.left <= 0:
            raise Endless(f"the search for coupled layers did not end in {STEPS} steps")
        self.left -= 1


class _Counted(list[Any]):
    """What a node depends on; looking it up takes one step of a budget."""

    def __init__(self, found: Iterable[Any], budget: _Budget) -> None:
        super().__init__(found)
        self._budget = budget

    def __iter__(self) -> Iterator[Any]:
        """Raise Endless when no step is left."""
        self._budget.take()
        return super().__iter__()


def limit(graph: Any) -> None:
    """Let each search in `graph` take STEPS steps.

    Before it starts, torch-pruning looks up where concatenations and the like put channels: a
    step for every dependency at most, which says nothing of the search.
    """
    budget, search = _Budget(), graph.get_pruning_group
    nodes = graph.module2node.values()
    dependencies = sum(len(node.dependencies) for node in nodes)

    def limited(*args: Any) -> Any:
        budget.left = STEPS + dependencies
        return search(*args)

    for node in nodes:
        node.dependencies = _Counted(node.dependencies, budget)
    graph.get_pruning_group = limited
