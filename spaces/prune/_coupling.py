"""Which channels of a model must be removed together, found by tracing one forward pass."""

import collections
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from spaces._inputs import call, flatten
from spaces._reasons import untraced
from spaces._technique import Infeasible, Scope
from spaces.prune._family import Family, Member, Side
from spaces.prune._heads import attention, head_lengths, torch_attention

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
"""What a model that cannot be traced, or does not fit together any more, raises."""

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Item:
    """Channels of one side of a layer that a root's channels are coupled to, pair by pair."""

    member: Member
    channels: list[int]
    roots: list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coupled:
    """A set of coupled sides, with the ways to divide it into units, the likeliest first."""

    name: str
    """Name of the layer that the search for coupled layers started from."""
    ways: tuple[Family, ...]


def find(model: nn.Module, example: Any) -> list[Coupled]:
    """Return all that could be removed from `model`, whose float parameters require gradients.

    Raises Infeasible when the model cannot be traced, whatever is to be removed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lengths = head_lengths(model, example)
            groups = list(_groups(_trace(model, example), model))
    except BUILD_ERRORS as error:
        raise Infeasible(
            f"the layers cannot be traced for pruning: {untraced(error)}", scope=Scope.TECHNIQUE
        ) from error
    found = [
        Coupled(name=items[0].member.name, ways=_ways(items, lengths)) for items in groups if items
    ]
    return found + [Coupled(name=f.name, ways=(f,)) for f in torch_attention(model)]


def _ways(items: list[_Item], lengths: dict[nn.Module, int]) -> tuple[Family, ...]:
    """Return the ways to divide coupled sides: by attention heads, then channel by channel."""
    ways = list(attention([item.member for item in items], lengths))
    plain = _plain(items)
    if plain is not None:
        width = items[0].member.unit.numel()
        ways += [plain, dataclasses.replace(plain, width=width)]
    return tuple(ways)


def _plain(items: list[_Item]) -> Family | None:
    """Return the finest division of coupled sides; None where their channels do not match up.

    A unit holds the root's channels that meet in some layer: those that a flattening joins, and
    those at the same place of each group of a grouped layer, whose groups stay equal.
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
    """Return after how many channels a side repeats itself: a grouped layer's group."""
    module, total = member.module, member.unit.numel()
    if isinstance(module, nn.GroupNorm):
        return total // module.num_groups
    if isinstance(module, nn.modules.conv._ConvNd) and member.side != "both":
        return total // module.groups
    return total


def _assigned(item: _Item, units: list[int]) -> Member:
    unit = item.member.unit.clone()
    unit[item.channels] = torch.tensor([units[i] for i in item.roots])
    return dataclasses.replace(item.member, unit=unit)


def _trace(model: nn.Module, example: Any) -> Any:
    """Return torch-pruning's dependency graph; every mutable argument is given afresh."""
    return torch_pruning.DependencyGraph().build_dependency(
        model,
        example_inputs=example,
        forward_fn=call,
        output_transform=_ends,
        unwrapped_parameters=[],
        customized_pruners={},
        ignored_layers=[],
        ignored_params=[],
        verbose=False,
    )


def _ends(outputs: Any) -> list[Tensor]:
    """Return each output as a scalar of its own, so that output layers are known as such."""
    tensors = [t.float().sum() for t in flatten(outputs)[0] if t.requires_grad]
    if not tensors:
        raise RuntimeError("no output depends on the parameters by differentiable operations")
    return tensors


def _groups(graph: Any, model: nn.Module) -> Iterator[list[_Item]]:
    """Yield the coupled sides of each group that may be pruned; the root comes first."""
    names = {module: name for name, module in model.named_modules()}
    tied = _tied(model)
    for group in graph.get_all_groups(ignored_layers=[], root_module_types=_LAYERS):
        targets = [item.dep.target.module for item in group]
        producers = [m for m in targets if isinstance(m, _LAYERS)]
        fixed = any(_is_fixed(m, names, tied) for m in targets)
        outputs = {
            id(i.dep.target.module) for i in group if graph.is_out_channel_pruning_fn(i.dep.handler)
        }
        residual = len([m for m in producers if id(m) in outputs]) > 1
        if fixed or (residual and any(isinstance(m, nn.LayerNorm) for m in targets)):
            continue  # a transformer's hidden width stays
        yield [item for g in group if (item := _item(graph, g, names)) is not None]


def _is_fixed(module: Any, names: dict[nn.Module, str], tied: set[int]) -> bool:
    """Whether what is coupled to `module` keeps its width."""
    if isinstance(module, nn.Parameter):
        return True
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
        return True
    if module not in names:
        return isinstance(module, torch_pruning.ops._OutputOp)
    if any(id(p) in tied for p in module.parameters(recurse=False)):
        return True
    return isinstance(module, nn.Embedding | nn.MultiheadAttention | nn.LSTM)


def _tied(model: nn.Module) -> set[int]:
    """Return the ids of parameters that several modules own."""
    ids = [id(p) for m in model.modules() for p in m.parameters(recurse=False)]
    return {i for i in ids if ids.count(i) > 1}


def _item(graph: Any, entry: Any, names: dict[nn.Module, str]) -> _Item | None:
    """Return a group's entry as an item; None for operations, which hold no channels."""
    module, handler = entry.dep.target.module, entry.dep.handler
    if module not in names or not isinstance(module, _LAYERS + _NORMS + (nn.PReLU,)):
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
    """Return a cut that keeps the order of what stays, which torch-pruning's own may not."""

    def cut(channels: list[int]) -> None:
        gone = set(channels)
        kept = torch.tensor([i for i in range(module.normalized_shape[0]) if i not in gone])
        for key, parameter in module.named_parameters(recurse=False):
            setattr(module, key, nn.Parameter(parameter.detach()[kept]))
        module.normalized_shape = (len(kept),)

    return cut
