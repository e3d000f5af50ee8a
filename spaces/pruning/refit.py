"""Least squares: what stays of a layer is refitted to write what the whole layer wrote."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spaces.modules import call, concatenate, flatten, length, plain
from spaces.modules.structure import Removal, Snapshot, matrices, readers
from spaces.task import Task

DAMPING = 0.01
"""Ridge towards the present weights, as a share of the mean diagonal of the moments."""
BYTES = 2**29
"""Largest input or output of a layer over all samples; of larger ones fewer samples are used."""
SWEEPS = 3
"""Times that the blocks of columns of a wide layer take turns."""
ITERATIONS = 20
"""Steps of conjugate gradients where each output may use columns of its own."""


class _Seen(Exception):
    """Raised by a hook once the last layer was seen: what follows need not be computed."""


@dataclasses.dataclass(kw_only=True, eq=False)
class _Goal:
    """What a layer of the whole model writes at some places, batch by batch."""

    places: list[tuple[Tensor, ...]] = dataclasses.field(default_factory=list)
    outputs: list[Tensor] = dataclasses.field(default_factory=list)
    calls: int = 0
    bytes: int = 0
    """Of the larger of input and output, over all samples so far."""


def refit(model: nn.Module, whole: Snapshot, task: Task, removals: Sequence[Removal]) -> None:
    """Refit the layers of `model` that lost columns; `whole` is what it was before."""
    kept = _kept(removals)
    cut = {name for (name, side) in kept if side == "in"}
    rows = {name: channels for (name, side), channels in kept.items() if side == "out"}
    fit(model, whole, task, sorted(cut), rows=rows)


def fit(
    model: nn.Module,
    whole: Snapshot,
    task: Task,
    names: Sequence[str],
    *,
    rows: Mapping[str, Tensor] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    damping: float = DAMPING,
) -> None:
    """Refit the layers `names` of `model` to write what they wrote in `whole`.

    Layer by layer in the order of the computation: the weights become those with which the layer,
    reading what the changed model gives it, comes closest to what it wrote in the whole model (He
    et al. 2017, Channel pruning for accelerating very deep networks, section 3.2), with a ridge
    towards the weights that it has. `rows` are the outputs that a layer still has; `masks` say
    which columns each output may use, (outputs, columns of the weight). Layers that cannot be
    read, that share their weight, or that are not used exactly once stay as they are.
    """
    shared = _shared(model)
    usable = [n for n in names if _usable(model.get_submodule(n), shared)]
    changed = Snapshot(model)
    data = list(_alike(readers.batches(task)))
    whole.restore()
    try:
        goals = _record(model, usable, data)
    finally:
        changed.restore()
    goals = {name: goal for name, goal in goals.items() if goal.calls == len(data)}
    if goals:
        _adjust(model, goals, data, rows or {}, masks or {}, damping)


def _usable(module: nn.Module, shared: set[int]) -> bool:
    return readers.readable(module) and id(module.weight) not in shared


def _kept(removals: Sequence[Removal]) -> dict[tuple[str, str], Tensor]:
    """Return the channels that stay of each cut side."""
    stay: dict[tuple[str, str], Tensor] = {}
    for removal in removals:
        for member in removal.family.members:
            gone = member.channels(removal.units)
            if gone:
                key = (member.name, str(member.side))
                here = stay.setdefault(key, torch.ones(member.unit.numel(), dtype=torch.bool))
                here[gone] = False
    return {key: here.nonzero().flatten() for key, here in stay.items()}


def _shared(model: nn.Module) -> set[int]:
    """Return the ids of parameters that stand in several modules."""
    seen: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    return {key for key, times in seen.items() if times > 1}


def _alike(data: Iterator[Any]) -> Iterator[Any]:
    """Yield the first batches as long as their samples have equal shapes, so that they join."""
    shapes = None
    for inputs in data:
        found = [t.shape[1:] for t in flatten(inputs)[0]]
        shapes = shapes or found
        if found != shapes:
            return
        yield inputs


def _record(model: nn.Module, names: Sequence[str], data: Sequence[Any]) -> dict[str, _Goal]:
    """Return what the layers write at some places of each batch, the same ones for every call."""
    goals = {name: _Goal() for name in names}
    generator = torch.Generator().manual_seed(0)
    current: dict[str, Any] = {}

    def watch(goal: _Goal) -> Callable[..., None]:
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


def _adjust(
    model: nn.Module,
    goals: Mapping[str, _Goal],
    data: Sequence[Any],
    rows: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    damping: float,
) -> None:
    """Run all samples at once; each layer gets its new weights just before it uses them."""
    largest = max(goal.bytes for goal in goals.values())
    count = max(1, min(len(data), int(len(data) * BYTES / max(largest, 1))))
    left = set(goals)

    def adjust(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            goal = goals[name]
            wanted = torch.cat(goal.outputs[:count])
            places = tuple(torch.cat(p) for p in zip(*goal.places[:count], strict=True))
            if name in rows:
                wanted = wanted[:, rows[name]]
            seen = readers.read(module, args[0], places)
            new = _fitted(module, seen, wanted, masks.get(name), damping)
            if bool(new.isfinite().all()):
                write(module, new)
            left.discard(name)
            if not left:
                raise _Seen

        return hook

    hooks = [model.get_submodule(n).register_forward_pre_hook(adjust(n)) for n in goals]
    try:
        with torch.no_grad():
            call(model, plain(concatenate(data[:count])))
    except _Seen:
        pass
    finally:
        for hook in hooks:
            hook.remove()


def _fitted(
    module: nn.Module, seen: Tensor, wanted: Tensor, mask: Tensor | None, damping: float
) -> Tensor:
    """Return the matrix with which `module` comes closest to `wanted` from what it has `seen`.

    Wide layers are fitted block of columns by block, each to what the others leave, several times.
    """
    new = readers.matrix(module)
    if mask is not None and seen.shape[1] > mask.shape[1]:
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    rest = wanted - seen @ new.float().T
    bounds = readers.ranges(seen.shape[1])
    for start, end in bounds * (1 if len(bounds) == 1 else SWEEPS):
        part = seen[:, start:end]
        allowed = None if mask is None else mask[:, start:end]
        change = _step(part, rest, allowed, damping)
        new[:, start:end] += change
        rest = rest - part @ change.float().T
    return new


def _step(part: Tensor, rest: Tensor, mask: Tensor | None, damping: float) -> Tensor:
    """Return the change of some columns' weights that comes closest to writing `rest`."""
    scale = damping * float(part.double().square().sum()) / part.shape[1]
    if mask is None and len(part) < part.shape[1]:  # fewer places than columns: the smaller system
        products = (part @ part.T).double()
        products += scale * torch.eye(len(part), dtype=torch.float64, device=part.device)
        dual: Tensor = torch.linalg.solve(products, rest.double())
        return dual.T @ part.double()
    moments = (part.T @ part).double()
    moments += scale * torch.eye(len(moments), dtype=torch.float64, device=part.device)
    slope = (part.T @ rest).double()
    if mask is None:
        solved: Tensor = torch.linalg.solve(moments, slope)
        return solved.T
    return _masked(moments, slope.T, mask)


def _masked(moments: Tensor, slope: Tensor, mask: Tensor) -> Tensor:
    """Return the change x, zero outside of `mask`, with x moments = slope inside of it.

    Conjugate gradients for all rows together, preconditioned by the diagonal: a direct solution
    needs a factorization for each row, since each has columns of its own.
    """
    diagonal = moments.diagonal().clamp(min=torch.finfo(torch.float64).tiny)
    change = torch.zeros_like(slope)
    left = slope * mask
    step = direction = left / diagonal
    size = (left * step).sum(1, keepdim=True)
    for _ in range(ITERATIONS):
        ahead = (direction @ moments) * mask
        curvature = (direction * ahead).sum(1, keepdim=True)
        pace = torch.where(curvature > 0, size / curvature, 0)
        change += pace * direction
        left = left - pace * ahead
        step = left / diagonal
        before, size = size, (left * step).sum(1, keepdim=True)
        direction = step + torch.where(before > 0, size / before, 0) * direction
    return change


def write(module: nn.Module, new: Tensor) -> None:
    """Store a matrix as new parameters: the old tensors may be those of the whole model."""
    held, shift = matrices.weight(module), matrices.bias(module)
    if shift is not None:
        values = new[:, -1].to(shift.dtype).clone()
        module.bias = nn.Parameter(values, requires_grad=shift.requires_grad)
        new = new[:, :-1]
    values = new.reshape(held.shape).to(held.dtype)
    values = (values.T if matrices.transposed(module) else values).contiguous()
    module.weight = nn.Parameter(values, requires_grad=matrices.trainable(module))
