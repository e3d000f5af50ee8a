"""Which layers read which: every layer's output is cut off, and gradients say where it arrives."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spaces.modules.layer_types import BatchNorm, Convolution, InstanceNorm
from spaces.modules.trees import call, flatten

LAYERS = (Convolution, nn.Linear)


@dataclasses.dataclass(kw_only=True, eq=False)
class Layer:
    """A layer at which the computation is cut: what it read, and what stands for its output."""

    name: str
    module: nn.Module
    read: list[Tensor] = dataclasses.field(default_factory=list)
    """What each call was given, as a function of other layers' outputs."""
    written: list[Tensor] = dataclasses.field(default_factory=list)
    """What each call returned to the model: numbers of ours, which the outputs depend on."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """Layers whose outputs meet, and those that read them."""

    writers: tuple[Layer, ...]
    readers: tuple[Layer, ...]
    ends: bool
    """Whether the model's outputs depend on it directly."""
    returns: bool
    """Whether a writer depends on what its readers make of it, as around residual connections."""
    parameters: tuple[nn.Parameter, ...]
    """What the model computes with between the writers and the readers."""
    statistics: bool
    """Whether it is normalised by statistics of each channel, without parameters."""

    @property
    def read(self) -> list[Tensor]:
        """What the readers were given, call by call."""
        return [tensor for reader in self.readers for tensor in reader.read]

    @property
    def written(self) -> list[Tensor]:
        """What the writers returned, call by call."""
        return [tensor for writer in self.writers for tensor in writer.written]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sources:
    """What something is computed from, back to the last layers."""

    layers: frozenset[int]
    parameters: tuple[nn.Parameter, ...]


def streams(model: nn.Module, example: Any, kinds: Callable[[nn.Module], bool]) -> list[Stream]:
    """Return all that flows between the layers of `kinds` in one pass over `example`.

    The float parameters of `model`, which is in evaluation mode, require gradients.
    """
    layers, outputs, normalised = _cut(model, example, kinds)
    wanted = [p for p in model.parameters() if p.requires_grad]
    found = [_sources(layer.read, layers, wanted) for layer in layers]
    ends = _sources(outputs, layers, wanted).layers
    counted = _sources(normalised, layers, []).layers
    readers_of = _readers_of(found)
    parts = _parts(len(layers), found, readers_of)
    return [_stream(layers, part, found, readers_of, ends, counted) for part in parts]


def mixes(stream: Stream) -> bool:
    """Whether one position of what linear layers write arrives at several, as in attention.

    Positions are those of the last dimension but the channels'. Asked is who arrives at the last
    position and who at the others.
    """
    if any(tensor.dim() == 1 for tensor in stream.read):
        return False
    last = [torch.arange(t.shape[-2])[:, None] == t.shape[-2] - 1 for t in stream.read]
    there = gradients(stream.read, stream.written, last)
    elsewhere = gradients(stream.read, stream.written, [~mask for mask in last])
    return any(
        a is not None and b is not None and bool((a.ne(0).any(-1) & b.ne(0).any(-1)).any())
        for a, b in zip(there, elsewhere, strict=True)
    )


def _cut(
    model: nn.Module, example: Any, kinds: Callable[[nn.Module], bool]
) -> tuple[list[Layer], list[Tensor], list[Tensor]]:
    """Return the layers in the order of their first calls, the model's outputs, and `normalised`.

    Those are what normalisations with statistics but without parameters return.
    """
    generator = torch.Generator().manual_seed(0)
    seen: dict[str, Layer] = {}
    normalised: list[Tensor] = []

    def watch(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            layer = seen.setdefault(name, Layer(name=name, module=module))
            layer.read.append(next(iter((*args, *kwargs.values()))))
            # small positive numbers: no activation is flat there
            values = torch.rand(output.shape, generator=generator) + 0.1
            layer.written.append(values.to(output).requires_grad_())
            return layer.written[-1].clone()

        return hook

    hooks = [
        module.register_forward_hook(watch(name), with_kwargs=True)
        for name, module in model.named_modules()
        if kinds(module)
    ]
    hooks += [
        module.register_forward_hook(lambda module, args, output: normalised.append(output))
        for module in model.modules()
        if _bare(module)
    ]
    try:
        outputs = flatten(call(model, example))[0]
    finally:
        for hook in hooks:
            hook.remove()
    return list(seen.values()), outputs, normalised


def _bare(module: nn.Module) -> bool:
    """Whether a normalisation holds statistics, and no parameters by which it would be seen."""
    norm = isinstance(module, BatchNorm | InstanceNorm)
    return norm and module.running_mean is not None and module.weight is None


def _sources(
    tensors: Iterable[Tensor], layers: Sequence[Layer], parameters: Sequence[nn.Parameter]
) -> _Sources:
    """Return what `tensors` are computed from."""
    owners = [(i, t) for i, layer in enumerate(layers) for t in layer.written]
    found = gradients(tensors, [*(t for _, t in owners), *parameters])
    reached = {i for (i, _), g in zip(owners, found, strict=False) if g is not None}
    used = zip(parameters, found[len(owners) :], strict=True)
    return _Sources(
        layers=frozenset(reached), parameters=tuple(p for p, g in used if g is not None)
    )


def gradients(
    tensors: Iterable[Tensor], sources: Sequence[Tensor], masks: Sequence[Tensor] | None = None
) -> Sequence[Tensor | None]:
    """Return the gradients of a random combination of `tensors`, of the channels in their masks."""
    generator = torch.Generator().manual_seed(0)
    roots, weights = [], []
    for number, tensor in enumerate(tensors):
        if tensor.requires_grad:
            weight = torch.rand(tensor.shape, generator=generator).to(tensor) + 0.1
            roots.append(tensor)
            weights.append(weight if masks is None else weight * masks[number].to(weight))
    if not roots or not sources:
        return [None] * len(sources)
    return torch.autograd.grad(roots, sources, weights, retain_graph=True, allow_unused=True)


def _readers_of(found: Sequence[_Sources]) -> Mapping[int, set[int]]:
    """Return which layers read each layer, as numbers; nothing for those that none reads."""
    readers_of: dict[int, set[int]] = collections.defaultdict(set)
    for reader, sources in enumerate(found):
        for writer in sources.layers:
            readers_of[writer].add(reader)
    return readers_of


def _parts(
    count: int, found: Sequence[_Sources], readers_of: Mapping[int, set[int]]
) -> Iterator[tuple[set[int], set[int]]]:
    """Yield writers and readers, as numbers, that are connected, in the writers' order."""
    left = dict.fromkeys(range(count))
    while left:
        writers: set[int] = set()
        readers: set[int] = set()
        new = {next(iter(left))}
        while new:
            writers |= new
            readers |= {r for w in new for r in readers_of.get(w, ())}
            new = {w for r in readers for w in found[r].layers} - writers
        for writer in writers:
            del left[writer]
        yield writers, readers


def _returns(part: tuple[set[int], set[int]], readers_of: Mapping[int, set[int]]) -> bool:
    """Whether a writer of `part` is one of its readers, or depends on one."""
    writers, new = part
    reached: set[int] = set()
    while new:
        reached |= new
        if not writers.isdisjoint(new):
            return True
        new = {r for layer in new for r in readers_of.get(layer, ())} - reached
    return False


def _stream(
    layers: Sequence[Layer],
    part: tuple[set[int], set[int]],
    found: Sequence[_Sources],
    readers_of: Mapping[int, set[int]],
    ends: frozenset[int],
    counted: frozenset[int],
) -> Stream:
    writers, readers = (sorted(numbers) for numbers in part)
    parameters = dict.fromkeys(p for r in readers for p in found[r].parameters)
    return Stream(
        writers=tuple(layers[i] for i in writers),
        readers=tuple(layers[i] for i in readers),
        ends=not ends.isdisjoint(writers),
        returns=_returns(part, readers_of),
        parameters=tuple(parameters),
        statistics=not counted.isdisjoint(writers),
    )
