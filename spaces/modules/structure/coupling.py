"""Find the channels of a model that must be removed together, by tracing one forward pass."""

import collections
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from spaces.messages import untraced
from spaces.modules.layer_types import BatchNorm, Convolution, InstanceNorm
from spaces.modules.modes import differentiable
from spaces.modules.structure.bounds import Endless, Reshaped, limit
from spaces.modules.structure.families import Coupled, Family, Member, Side
from spaces.modules.structure.flow import LAYERS
from spaces.modules.structure.heads import torch_attention
from spaces.modules.structure.linear_sets import Owners, linear_sets
from spaces.modules.trees import call, flatten
from spaces.technique import Infeasible, Scope

BUILD_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    ZeroDivisionError,
)
"""Errors of models that cannot be traced, or whose layers do not fit together after a cut."""

_NORMS = (BatchNorm, InstanceNorm, nn.LayerNorm, nn.GroupNorm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Item:
    """Channels of one side of a layer, paired with the root's channels that they are coupled to."""

    member: Member
    channels: list[int]
    roots: list[int]


def find(model: nn.Module, example: Any) -> list[Coupled]:
    """Return all sets of coupled channels of `model`, whose float parameters require gradients.

    Sets from which nothing can be removed have no ways, and a reason. A transformer's hidden width
    and the outputs are never removed and not returned. Raises Infeasible if the model cannot be
    traced.
    """
    try:
        with warnings.catch_warnings(), differentiable(model):
            warnings.simplefilter("ignore")
            linear, roots = linear_sets(model, example)
            traced = list(_traced(model, example, roots, linear)) if roots else []
    except BUILD_ERRORS as error:
        raise Infeasible(
            f"the layers cannot be traced for pruning: {_reason(error)}", scope=Scope.TECHNIQUE
        ) from error
    return [*linear, *traced, *(Coupled(name=f.name, ways=(f,)) for f in torch_attention(model))]


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, Endless | Reshaped) else untraced(error)


def _ways(items: list[_Item]) -> tuple[Family, ...]:
    """Return the ways to divide coupled sides: without and with attributes to update."""
    plain = _plain(items)
    if plain is None:
        return ()
    return plain, dataclasses.replace(plain, widths=(items[0].member.unit.numel(),))


def _plain(items: list[_Item]) -> Family | None:
    """Return the finest division of coupled sides; None if their channels do not match.

    A unit contains the root's channels that meet in some layer: channels that a flattening joins,
    and channels at the same position of each group of a grouped layer, whose groups stay equal.
    """
    root = items[0].member
    parents = list(range(root.unit.numel()))
    owners: dict[tuple[int, int], int] = {}
    for number, item in enumerate(items):
        total, block = item.member.unit.numel(), _block(item.member)
        for channel, source in zip(item.channels, item.roots, strict=True):
            if source is None or channel >= total:
                return None
            first = owners.setdefault((number, channel % block), source)
            parents[_top(parents, source)] = _top(parents, first)
    tops = [_top(parents, i) for i in range(len(parents))]
    numbers = {top: i for i, top in enumerate(dict.fromkeys(tops))}
    if len(set(collections.Counter(tops).values())) != 1:
        return None
    units = [numbers[top] for top in tops]
    members = tuple(_assigned(item, units) for item in items)
    size = len(parents) // len(numbers)
    return Family(name=root.name, members=members, units=len(numbers), size=size)


def _top(parents: list[int], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


def _block(member: Member) -> int:
    """Return the number of channels after which a side repeats: one group of a grouped layer."""
    module, total = member.module, member.unit.numel()
    if isinstance(module, nn.GroupNorm):
        return total // module.num_groups
    if isinstance(module, Convolution) and member.side != "both":
        return total // module.groups
    return total


def _assigned(item: _Item, units: list[int]) -> Member:
    unit = item.member.unit.clone()
    unit[item.channels] = torch.tensor([units[i] for i in item.roots])
    return dataclasses.replace(item.member, unit=unit)


def _trace(model: nn.Module, example: Any) -> Any:
    """Return torch-pruning's dependency graph, built with new objects for mutable arguments."""
    try:
        return torch_pruning.DependencyGraph().build_dependency(
            model,
            example_inputs=example,
            forward_fn=call,
            output_transform=_scalars,
            unwrapped_parameters=[],
            customized_pruners={},
            ignored_layers=[],
            ignored_params=[],
            verbose=False,
        )
    except ZeroDivisionError as error:  # of the channels after a reshape and before it
        raise Reshaped(
            "a reshape groups channels, as a channel shuffle does, and they cannot be followed"
        ) from error


def _scalars(outputs: Any) -> list[Tensor]:
    """Reduce each output to a scalar, so that torch-pruning recognises the output layers."""
    tensors = [t.float().sum() for t in flatten(outputs)[0] if t.requires_grad]
    if not tensors:
        raise RuntimeError("no output depends on the parameters by differentiable operations")
    return tensors


def _traced(
    model: nn.Module, example: Any, roots: Sequence[nn.Module], linear: Sequence[Coupled]
) -> Iterator[Coupled]:
    """Yield the coupled sets that start at the layers `roots`.

    If the roots cannot be traced but some of the `linear` sets can be cut, yield one set without
    ways for all roots, named after the first.
    """
    names = {module: name for name, module in model.named_modules()}
    try:
        graph = _trace(model, example)
        limit(graph)
        yield from _groups(graph, model, roots)
    except (*BUILD_ERRORS, Endless) as error:
        if not any(coupled.ways for coupled in linear):
            raise
        yield Coupled(
            name=names[roots[0]], ways=(), reason=f"it cannot be traced: {_reason(error)}"
        )


def _groups(graph: Any, model: nn.Module, roots: Sequence[nn.Module]) -> Iterator[Coupled]:
    """Yield the coupled sides of each group that starts at `roots`."""
    names = {module: name for name, module in model.named_modules()}
    owners, starts = Owners(model), set(roots)
    ignored = [m for m in model.modules() if isinstance(m, LAYERS) and m not in starts]
    for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=LAYERS):
        targets = [item.dep.target.module for item in group]
        if any(_stays(m) for m in targets):
            continue
        items = [item for g in group if (item := _item(graph, g, names)) is not None]
        if not items:
            continue
        reason = _fixed(targets, owners)
        ways = () if reason else _ways(items)
        if not ways:
            reason = reason or "its channels do not divide into equal units"
        yield Coupled(name=items[0].member.name, ways=ways, reason=reason)


def _stays(module: Any) -> bool:
    """Return True if a node of the graph is a model output or a transformer's hidden width."""
    output = torch_pruning.ops.module2type(module) == torch_pruning.ops.OPTYPE.OUTPUT
    return output or isinstance(module, nn.Embedding)


def _fixed(modules: Sequence[Any], owners: Owners) -> str:
    """Return the reason why channels coupled to `modules` must stay, "" if they can go."""
    for module in modules:
        if isinstance(module, nn.Parameter):
            return f"{owners.names(module)[0] or 'the model'} has parameters for its channels"
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            return "a normalisation of several dimensions follows"
        if isinstance(module, nn.MultiheadAttention | nn.LSTM):
            return f"a {type(module).__name__} reads it"
    return owners.tied([m for m in modules if isinstance(m, nn.Module)])


def _item(graph: Any, entry: Any, names: dict[nn.Module, str]) -> _Item | None:
    """Return a group's entry as an item; None for operations, which have no channels."""
    module, handler = entry.dep.target.module, entry.dep.handler
    if module not in names or not isinstance(module, LAYERS + _NORMS + (nn.PReLU,)):
        return None
    out, into = graph.is_out_channel_pruning_fn(handler), graph.is_in_channel_pruning_fn(handler)
    side: Side = "both" if out and into else "out" if out else "in"
    node = entry.dep.target
    channels = graph.get_in_channels(node) if side == "in" else graph.get_out_channels(node)
    if channels is None:
        return None
    member = Member(
        name=names[module],
        module=module,
        side=side,
        cut=_layer_norm(module) if isinstance(module, nn.LayerNorm) else entry.dep,
        unit=torch.full((channels,), -1),
    )
    return _Item(member=member, channels=list(entry.idxs), roots=list(entry.root_idxs))


def _layer_norm(module: nn.LayerNorm) -> Callable[[list[int]], None]:
    """Return a cut that preserves the order of the other channels, unlike torch-pruning's."""

    def cut(channels: list[int]) -> None:
        removed = set(channels)
        remaining = torch.tensor([i for i in range(module.normalized_shape[0]) if i not in removed])
        for key, parameter in module.named_parameters(recurse=False):
            setattr(module, key, nn.Parameter(parameter.detach()[remaining]))
        module.normalized_shape = (len(remaining),)

    return cut
