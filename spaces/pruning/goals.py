"""Record what layers of the whole model return at sampled places, as goals of a refit."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spaces.memory import Memory
from spaces.modules import call, flatten, identity, length
from spaces.modules.structure import readers
from spaces.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Goal:
    """Outputs of a layer of the whole model at sampled places, over all batches."""

    places: Tensor
    """Indices of all dimensions of the output except the channels, (dimensions, places)."""
    outputs: Tensor
    """Outputs there, (places, channels)."""
    counts: list[int]
    """Places of each batch."""
    bytes: int
    """Bytes of the larger of input and output, over all samples."""

    def first(self, batches: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the places and outputs of the first batches."""
        count = sum(self.counts[:batches])
        return tuple(self.places[:, :count]), self.outputs[:count]


class _Seen:
    """Places and outputs of a layer batch by batch, while the model runs."""

    def __init__(self) -> None:
        self.places: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.bytes = 0

    def goal(self) -> Goal:
        """Return all batches as one."""
        return Goal(
            places=torch.cat(self.places, 1),
            outputs=torch.cat(self.outputs),
            counts=[len(part) for part in self.outputs],
            bytes=self.bytes,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Goals:
    """Inputs of a model, and what its layers make of them while the model is whole."""

    inputs: Sequence[Any]
    """Batches that can be joined to one."""
    layers: Mapping[str, Goal]
    """Goals of the layers that can be refitted, by name."""


def record(model: nn.Module, task: Task, names: Iterable[str], memory: Memory) -> Goals:
    """Return the goals of the layers `names` of the whole model, from training samples.

    Layers that are not readable, that share their weight, or that are not used exactly once have
    no goal. The places of a layer are drawn for it alone, so that they are the same whatever other
    layers are recorded.
    """
    inputs = list(_joinable(readers.kept(task, memory)))
    shared = _shared(model)
    usable = sorted({n for n in names if _usable(model.get_submodule(n), shared)})
    stored = memory.remembered(
        "outputs",
        {"model": identity(model), "layers": usable, "samples": readers.SAMPLES},
        lambda: {n: vars(goal) for n, goal in _recorded(model, usable, inputs).items()},
    )
    return Goals(inputs=inputs, layers={n: Goal(**fields) for n, fields in stored.items()})


def _usable(module: nn.Module, shared: set[int]) -> bool:
    return readers.readable(module) and id(module.weight) not in shared


def _shared(model: nn.Module) -> set[int]:
    """Return the ids of parameters that belong to several modules."""
    counts: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    return {key for key, count in counts.items() if count > 1}


def _joinable(data: Iterable[Any]) -> Iterator[Any]:
    """Yield batches until one has samples of other shapes, which could not be joined."""
    first = None
    for inputs in data:
        shapes = [t.shape[1:] for t in flatten(inputs)[0]]
        first = first or shapes
        if shapes != first:
            return
        yield inputs


def _recorded(model: nn.Module, names: Sequence[str], data: Sequence[Any]) -> dict[str, Goal]:
    """Return the goals of the layers that are used once in each batch, equal at every call."""
    seen = {name: _Seen() for name in names}
    current: dict[str, Any] = {}

    def watch(layer: _Seen) -> Callable[..., None]:
        generator = torch.Generator().manual_seed(0)

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            places = readers.pick(module, output, generator, current["inputs"])
            layer.outputs.append(readers.written(module, output, places))
            layer.places.append(torch.stack([places[0] + current["start"], *places[1:]]))
            layer.bytes += 4 * max(output.numel(), args[0].numel())

        return hook

    hooks = [model.get_submodule(n).register_forward_hook(watch(s)) for n, s in seen.items()]
    try:
        start = 0
        for inputs in data:
            current.update(inputs=inputs, start=start)
            with torch.no_grad():
                call(model, inputs)
            start += length(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {n: layer.goal() for n, layer in seen.items() if len(layer.outputs) == len(data)}
