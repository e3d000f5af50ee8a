"""Find the readers of each layer: outputs are cut off, and gradients show where they arrive."""

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
    """A layer at which the computation is cut: its inputs, and substitutes for its outputs."""

    name: str
    module: nn.Module
    read: list[Tensor] = dataclasses.field(default_factory=list)
    """Input of each call, as a function of other layers' outputs."""
    written: list[Tensor] = dataclasses.field(default_factory=list)
    """Output of each call that the model continues with: random numbers without history."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """Layers whose outputs meet, and the layers that read them."""

    writers: tuple[Layer, ...]
    readers: tuple[Layer, ...]
    ends: bool
    """Whether the model's outputs depend on it directly."""
    returns: bool
    """Whether a writer depends on outputs of its readers, as around residual connections."""
    parameters: tuple[nn.Parameter, ...]
    """Parameters that the model uses between the writers and the readers."""
    statistics: bool
    """Whether it is normalised by statistics of each channel, without parameters."""

    @property
    def read(self) -> list[Tensor]:
        """The inputs of the readers, call by call."""
        return [tensor for reader in self.readers for tensor in reader.read]

    @property
    def written(self) -> list[Tensor]:
        """The outputs of the writers, call by call."""
        return [tensor for writer in self.writers for tensor in writer.written]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sources:
    """The layers and parameters from which tensors are computed, back to the nearest layers."""

    layers: frozenset[int]
    parameters: tuple[nn.Parameter, ...]


def streams(model: nn.Module, example: Any, is_layer: Callable[[nn.Module], bool]) -> list[Stream]:
    """Return all streams between the modules that `is_layer` selects, in one pass over `example`.

    `model` is in evaluation mode, and its float parameters require gradients.
    """
    layers, outputs, normalised = _cut(model, example, is_layer)
    parameters = [p for p in model.parameters() if p.requires_grad]
    sources = [_sources(layer.read, layers, parameters) for layer in layers]
    ends = _sources(outputs, layers, parameters).layers
    with_statistics = _sources(normalised, layers, []).layers
    readers_of = _readers_of(sources)
    parts = _parts(len(layers), sources, readers_of)
    return [_stream(layers, part, sources, readers_of, ends, with_statistics) for part in parts]


def mixes(stream: Stream) -> bool:
    """Return True if a position that linear layers write reaches several, as in attention.

    Positions are indices of the dimension before the channels. A position counts as reaching
    several if it has gradients both from the last position read and from another one.
    """
    if any(tensor.dim() == 1 for tensor in stream.read):
        return False
    last = [torch.arange(t.shape[-2])[:, None] == t.shape[-2] - 1 for t in stream.read]
    to_last = gradients(stream.read, stream.written, last)
    to_others = gradients(stream.read, stream.written, [~mask for mask in last])
    return any(
        a is not None and b is not None and bool((a.ne(0).any(-1) & b.ne(0).any(-1)).any())
        for a, b in zip(to_last, to_others, strict=True)
    )


def _cut(
    model: nn.Module, example: Any, is_layer: Callable[[nn.Module], bool]
) -> tuple[list[Layer], list[Tensor], list[Tensor]]:
    """Return the layers in the order of their first calls, the model's outputs, and `normalised`.

    The latter are the outputs of normalisations with statistics but without parameters.
    """
    generator = torch.Generator().manual_seed(0)
    layers: dict[str, Layer] = {}
    normalised: list[Tensor] = []

    def watch(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            layer = layers.setdefault(name, Layer(name=name, module=module))
            layer.read.append(next(iter((*args, *kwargs.values()))))
            # small and positive, where no activation function is flat
            values = torch.rand(output.shape, generator=generator) + 0.1
            layer.written.append(values.to(output).requires_grad_())
            return layer.written[-1].clone()

        return hook

    hooks = [
        module.register_forward_hook(watch(name), with_kwargs=True)
        for name, module in model.named_modules()
        if is_layer(module)
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
    return list(layers.values()), outputs, normalised


def _bare(module: nn.Module) -> bool:
    """Return True for a normalisation with statistics but without parameters to trace."""
    norm = isinstance(module, BatchNorm | InstanceNorm)
    return norm and module.running_mean is not None and module.weight is None


def _sources(
    tensors: Iterable[Tensor], layers: Sequence[Layer], parameters: Sequence[nn.Parameter]
) -> _Sources:
    """Return the layers and parameters from which `tensors` are computed."""
    owners = [(i, t) for i, layer in enumerate(layers) for t in layer.written]
    grads = gradients(tensors, [*(t for _, t in owners), *parameters])
    reached = {i for (i, _), g in zip(owners, grads, strict=False) if g is not None}
    used = zip(parameters, grads[len(owners) :], strict=True)
    return _Sources(
        layers=frozenset(reached), parameters=tuple(p for p, g in used if g is not None)
    )


def gradients(
    tensors: Iterable[Tensor], sources: Sequence[Tensor], masks: Sequence[Tensor] | None = None
) -> Sequence[Tensor | None]:
    """Return gradients of a random combination of `tensors` with respect to `sources`.

    With `masks`, one for each tensor, only their elements take part.
    """
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


def _readers_of(sources: Sequence[_Sources]) -> Mapping[int, set[int]]:
    """Return the numbers of the readers of each layer; layers without readers are missing."""
    readers_of: dict[int, set[int]] = collections.defaultdict(set)
    for reader, layer_sources in enumerate(sources):
        for writer in layer_sources.layers:
            readers_of[writer].add(reader)
    return readers_of


def _parts(
    count: int, sources: Sequence[_Sources], readers_of: Mapping[int, set[int]]
) -> Iterator[tuple[set[int], set[int]]]:
    """Yield the numbers of connected writers and readers, in the order of the writers."""
    remaining = dict.fromkeys(range(count))
    while remaining:
        writers: set[int] = set()
        readers: set[int] = set()
        new = {next(iter(remaining))}
        while new:
            writers |= new
            readers |= {r for w in new for r in readers_of.get(w, ())}
            new = {w for r in readers for w in sources[r].layers} - writers
        for writer in writers:
            del remaining[writer]
        yield writers, readers


def _returns(part: tuple[set[int], set[int]], readers_of: Mapping[int, set[int]]) -> bool:
    """Return True if a writer of `part` is one of its readers or depends on one."""
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
    sources: Sequence[_Sources],
    readers_of: Mapping[int, set[int]],
    ends: frozenset[int],
    with_statistics: frozenset[int],
) -> Stream:
    writers, readers = (sorted(numbers) for numbers in part)
    parameters = dict.fromkeys(p for r in readers for p in sources[r].parameters)
    return Stream(
        writers=tuple(layers[i] for i in writers),
        readers=tuple(layers[i] for i in readers),
        ends=not ends.isdisjoint(writers),
        returns=_returns(part, readers_of),
        parameters=tuple(parameters),
        statistics=not with_statistics.isdisjoint(writers),
    )
