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


@dataclasses.dataclass(kw_only=True, eq=False)
class Goal:
    """Outputs of a layer of the whole model at sampled places, batch by batch."""

    places: list[tuple[Tensor, ...]] = dataclasses.field(default_factory=list)
    outputs: list[Tensor] = dataclasses.field(default_factory=list)
    calls: int = 0
    bytes: int = 0
    """Bytes of the larger of input and output, over all samples so far."""


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
    layers = {name: Goal(**fields) for name, fields in stored.items()}
    once = {name: goal for name, goal in layers.items() if goal.calls == len(inputs)}
    return Goals(inputs=inputs, layers=once)


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
    """Return the layers' outputs at places of each batch, the same places at every call."""
    goals = {name: Goal() for name in names}
    current: dict[str, Any] = {}

    def watch(goal: Goal) -> Callable[..., None]:
        generator = torch.Generator().manual_seed(0)

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            goal.calls += 1
            places = readers.pick(module, output, generator, current["inputs"])
            goal.outputs.append(readers.written(module, output, places))
            goal.places.append((places[0] + current["start"], *places[1:]))
            goal.bytes += 4 * max(output.numel(), args[0].numel())

        return hook

    hooks = [model.get_submodule(n).register_forward_hook(watch(g)) for n, g in goals.items()]
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
    return goals
