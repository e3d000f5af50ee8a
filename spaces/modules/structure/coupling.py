"""Which channels of a model must be removed together, found by tracing one forward pass."""

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
from spaces.modules.structure.bounds import Endless, limit
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
"""What a model that cannot be traced, or does not fit together any more, raises."""

_NORMS = (BatchNorm, InstanceNorm, nn.LayerNorm, nn.GroupNorm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Item:
    """Channels of one side of a layer that a root's channels are coupled to, pair by pair."""

    member: Member
    channels: list[int]
    roots: list[int]


def find(model: nn.Module, example: Any) -> list[Coupled]:
    """Return all that could be removed from `model`, whose float parameters require gradients.

    Sets that nothing can be removed from are told with their reason; not told are a transformer's
    hidden width and the outputs, which stay by design. Raises Infeasible when the model cannot be
    traced, whatever is to be removed.
    """
    try:
        with warnings.catch_warnings(), differentiable(model):
            warnings.simplefilter("ignore")
            settled, roots = linear_sets(model, example)
            traced = list(_traced(model, example, roots, settled)) if roots else []
    except BUILD_ERRORS as error:
        raise Infeasible(
            f"the layers cannot be traced for pruning: {_why(error)}", scope=Scope.TECHNIQUE
        ) from error
    return [*settled, *traced, *(Coupled(name=f.name, ways=(f,)) for f in torch_attention(model))]


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, Endless) else untraced(error)


def _ways(items: list[_Item]) -> tuple[Family, ...]:
    """Return the ways to divide coupled sides: with and without attributes to update."""
    plain = _plain(items)
    if plain is None:
        return ()
    return plain, dataclasses.replace(plain, widths=(items[0].member.unit.numel(),))


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
    if isinstance(module, Convolution) and member.side != "both":
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


def _traced(
    model: nn.Module, example: Any, roots: Sequence[nn.Module], known: Sequence[Coupled]
) -> Iterator[Coupled]:
    """Yield what starts at the layers `roots`.

    Where that cannot be traced and something else is known, the first of them stands for all.
    """
    names = {module: name for name, module in model.named_modules()}
    try:
        graph = _trace(model, example)
        limit(graph)
        yield from _groups(graph, model, roots)
    except (*BUILD_ERRORS, Endless) as error:
        if not any(coupled.ways for coupled in known):
            raise
        yield Coupled(name=names[roots[0]], ways=(), reason=f"it cannot be traced: {_why(error)}")


def _groups(graph: Any, model: nn.Module, roots: Sequence[nn.Module]) -> Iterator[Coupled]:
    """Yield the coupled sides of each group that starts at `roots`."""
    names = {module: name for name, module in model.named_modules()}
    owners, wanted = Owners(model), set(roots)
    others = [m for m in model.modules() if isinstance(m, LAYERS) and m not in wanted]
    for group in graph.get_all_groups(ignored_layers=others, root_module_types=LAYERS):
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
    """Whether a node of the graph is an output of the model or a transformer's hidden width."""
    output = torch_pruning.ops.module2type(module) == torch_pruning.ops.OPTYPE.OUTPUT
    return output or isinstance(module, nn.Embedding)


def _fixed(modules: Sequence[Any], owners: Owners) -> str:
    """Return why what is coupled to `modules` keeps its width, nothing if it need not."""
    for module in modules:
        if isinstance(module, nn.Parameter):
            return f"{owners.names(module)[0] or 'the model'} has parameters for its channels"
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            return "a normalisation of several dimensions follows"
        if isinstance(module, nn.MultiheadAttention | nn.LSTM):
            return f"a {type(module).__name__} reads it"
    return owners.tied([m for m in modules if isinstance(m, nn.Module)])


def _item(graph: Any, entry: Any, names: dict[nn.Module, str]) -> _Item | None:
    """Return a group's entry as an item; None for operations, which hold no channels."""
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
    """Return a cut that keeps the order of what stays, which torch-pruning's own may not."""

    def cut(channels: list[int]) -> None:
        gone = set(channels)
        kept = torch.tensor([i for i in range(module.normalized_shape[0]) if i not in gone])
        for key, parameter in module.named_parameters(recurse=False):
            setattr(module, key, nn.Parameter(parameter.detach()[kept]))
        module.normalized_shape = (len(kept),)

    return cut
