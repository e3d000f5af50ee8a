"""Limit the steps of torch-pruning's searches for coupled layers, some of which never end."""

from collections.abc import Iterable, Iterator
from typing import Any

STEPS = 5_000
"""Steps of one search for coupled layers; in the largest networks it takes some hundreds."""


class Endless(RuntimeError):
    """Raised for a search that runs in circles, as happens if halves of channels are swapped."""


class Reshaped(RuntimeError):
    """Raised if a reshape groups channels, as a channel shuffle does, and cannot be followed."""


class _Budget:
    """The remaining steps of a search."""

    remaining = 0

    def take(self) -> None:
        """Take one step; raises Endless if none remains."""
        if self.remaining <= 0:
            raise Endless(f"the search for coupled layers did not end in {STEPS} steps")
        self.remaining -= 1


class _Counted(list[Any]):
    """The dependencies of a node; iterating over them takes one step of a budget."""

    def __init__(self, dependencies: Iterable[Any], budget: _Budget) -> None:
        super().__init__(dependencies)
        self._budget = budget

    def __iter__(self) -> Iterator[Any]:
        """Raise Endless if no step remains."""
        self._budget.take()
        return super().__iter__()


def limit(graph: Any) -> None:
    """Limit each search in `graph` to STEPS steps.

    Before each search, torch-pruning looks up where concatenations and similar operations put
    channels. This takes up to one step per dependency, which is added to the limit.
    """
    budget, search = _Budget(), graph.get_pruning_group
    nodes = graph.module2node.values()
    dependencies = sum(len(node.dependencies) for node in nodes)

    def limited(*args: Any) -> Any:
        budget.remaining = STEPS + dependencies
        return search(*args)

    for node in nodes:
        node.dependencies = _Counted(node.dependencies, budget)
    graph.get_pruning_group = limited
