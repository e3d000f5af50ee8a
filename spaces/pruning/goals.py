"""Record what layers of the whole model return at sampled places, as goals of a refit."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spaces.memory import Memory
from spaces.modules import flatten, identity, length, samples
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
        self.rows = 0
        self.joinable = True

    def add(self, output: Tensor, samples: int, places: tuple[Tensor, ...]) -> None:
        """Add the places of a batch, as they are when all batches run as one.

        Rows of a sample stay together, such as the windows of an image. Where the rows are not
        divided among the samples, as in a table of positions, batches cannot be joined.
        """
        self.places.append(torch.stack([places[0] + self.rows, *places[1:]]))
        self.rows += len(output)
        self.joinable &= len(output) % samples == 0

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


def record(
    model: nn.Module,
    task: Task,
    names: Iterable[str],
    memory: Memory,
    *,
    count: int | None = None,
    recorder: "Recorder | None" = None,
) -> Goals:
    """Return the goals of the layers `names` of the whole model, from training samples.

    Layers that are not readable, that share their weight, or that are not used exactly once have
    no goal. The places of a layer are drawn for it alone, so that they are the same whatever other
    layers are recorded. `count` are the samples, as many as are affordable by default. A `recorder`
    that watched an earlier pass over the same samples saves this one.
    """
    usable = recordable(model, names)
    used = samples.count(model, task, memory) if count is None else count
    inputs = list(_joinable(samples.kept(task, memory, used)))

    def computed() -> dict[str, dict[str, Any]]:
        watched = recorder
        if watched is None or watched.names != usable or watched.batches != len(inputs):
            watched = Recorder(model, usable, used)
            samples.run(model, inputs, watched)
        return {n: vars(goal) for n, goal in watched.goals().items()}

    stored = memory.remembered(
        "outputs", {"model": identity(model), "layers": usable, "samples": used}, computed
    )
    return Goals(inputs=inputs, layers={n: Goal(**fields) for n, fields in stored.items()})


def recordable(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return those of the layers `names` whose outputs can be goals, in order of their names."""
    shared = _shared(model)
    return sorted({n for n in names if _usable(model.get_submodule(n), shared)})


class Recorder(samples.Watcher):
    """Records the outputs of layers at sampled places, equal at every call."""

    def __init__(self, model: nn.Module, names: Sequence[str], count: int) -> None:
        """Watch the layers `names` over `count` samples."""
        self.names, self._count = list(names), count
        self._layers = {name: model.get_submodule(name) for name in names}
        self._seen = {name: _Seen() for name in names}

    def hooks(self) -> list[RemovableHandle]:
        """Watch the layers' outputs."""
        return [m.register_forward_hook(self._hook(self._seen[n])) for n, m in self._layers.items()]

    def goals(self) -> dict[str, Goal]:
        """Return the goals of the layers that were used once in each batch."""
        return {n: seen.goal() for n, seen in self._seen.items() if self._once(seen)}

    def _once(self, seen: _Seen) -> bool:
        once = bool(seen.outputs) and len(seen.outputs) == self.batches
        return once and (seen.joinable or self.batches == 1)

    def _hook(self, layer: _Seen) -> Callable[..., None]:
        generator = torch.Generator().manual_seed(0)

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            places = readers.pick(module, output, generator, self.inputs, self._count)
            layer.outputs.append(readers.written(module, output, places))
            layer.add(output, length(self.inputs), places)
            layer.bytes += 4 * max(output.numel(), args[0].numel())

        return hook


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
