"""Refit the remaining weights of layers to the outputs of the whole layers, by least squares."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spaces.modules import call, concatenate, flatten, length, plain
from spaces.modules.structure import Removal, Snapshot, matrices, readers
from spaces.task import Task

DAMPING = 0.01
"""Ridge towards the current weights, as a share of the mean diagonal of the moments."""
BYTES = 2**29
"""Largest input or output of a layer over all samples; of larger ones fewer samples are used."""
SWEEPS = 3
"""Number of passes over the blocks of columns of a wide layer."""
ITERATIONS = 20
"""Steps of conjugate gradients, used if outputs differ in the columns that they may use."""


class _AllRefitted(Exception):
    """Raised by a hook after the last layer to end the forward pass early."""


@dataclasses.dataclass(kw_only=True, eq=False)
class _Goal:
    """Outputs of a layer of the whole model at sampled places, batch by batch."""

    places: list[tuple[Tensor, ...]] = dataclasses.field(default_factory=list)
    outputs: list[Tensor] = dataclasses.field(default_factory=list)
    calls: int = 0
    bytes: int = 0
    """Bytes of the larger of input and output, over all samples so far."""


def refit(model: nn.Module, whole: Snapshot, task: Task, removals: Sequence[Removal]) -> None:
    """Refit the layers of `model` that lost columns; `whole` is the model before the removals."""
    remaining = _remaining(removals)
    cut = {name for (name, side) in remaining if side == "in"}
    rows = {name: channels for (name, side), channels in remaining.items() if side == "out"}
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
    """Refit the layers `names` of `model` to their outputs in `whole`.

    Layers are refitted in the order of the computation. The new weights bring a layer's outputs,
    on its inputs in the changed model, as close as possible to its outputs in the whole model (He
    et al. 2017, Channel pruning for accelerating very deep networks, section 3.2), with a ridge
    towards the current weights. `rows` are the outputs that a layer still has; `masks` select the
    columns that each output may use, (outputs, columns of the weight). Layers that are not
    readable, that share their weight, or that are not used exactly once do not change.
    """
    shared = _shared(model)
    usable = [n for n in names if _usable(model.get_submodule(n), shared)]
    changed = Snapshot(model)
    data = list(_joinable(readers.batches(task)))
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


def _remaining(removals: Sequence[Removal]) -> dict[tuple[str, str], Tensor]:
    """Return the channels that remain of each cut side."""
    masks: dict[tuple[str, str], Tensor] = {}
    for removal in removals:
        for member in removal.family.members:
            removed = member.channels(removal.units)
            if removed:
                key = (member.name, str(member.side))
                mask = masks.setdefault(key, torch.ones(member.unit.numel(), dtype=torch.bool))
                mask[removed] = False
    return {key: mask.nonzero().flatten() for key, mask in masks.items()}


def _shared(model: nn.Module) -> set[int]:
    """Return the ids of parameters that belong to several modules."""
    counts: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    return {key for key, count in counts.items() if count > 1}


def _joinable(data: Iterator[Any]) -> Iterator[Any]:
    """Yield batches until one has samples of other shapes, which could not be joined."""
    first = None
    for inputs in data:
        shapes = [t.shape[1:] for t in flatten(inputs)[0]]
        first = first or shapes
        if shapes != first:
            return
        yield inputs


def _record(model: nn.Module, names: Sequence[str], data: Sequence[Any]) -> dict[str, _Goal]:
    """Return the layers' outputs at places of each batch, the same places at every call."""
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
    """Run all samples as one batch; each layer gets its new weights just before it runs."""
    largest = max(goal.bytes for goal in goals.values())
    count = max(1, min(len(data), int(len(data) * BYTES / max(largest, 1))))
    remaining = set(goals)

    def adjust(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            goal = goals[name]
            targets = torch.cat(goal.outputs[:count])
            places = tuple(torch.cat(p) for p in zip(*goal.places[:count], strict=True))
            if name in rows:
                targets = targets[:, rows[name]]
            inputs = readers.read(module, args[0], places)
            matrix = _fitted(module, inputs, targets, masks.get(name), damping)
            if bool(matrix.isfinite().all()):
                write(module, matrix)
            remaining.discard(name)
            if not remaining:
                raise _AllRefitted

        return hook

    hooks = [model.get_submodule(n).register_forward_pre_hook(adjust(n)) for n in goals]
    try:
        with torch.no_grad():
            call(model, plain(concatenate(data[:count])))
    except _AllRefitted:
        pass
    finally:
        for hook in hooks:
            hook.remove()


def _fitted(
    module: nn.Module, inputs: Tensor, targets: Tensor, mask: Tensor | None, damping: float
) -> Tensor:
    """Return the matrix with which `module` maps `inputs` closest to `targets`.

    Wide layers are fitted one block of columns after another, each to the residual of the others,
    in several sweeps.
    """
    matrix = readers.matrix(module)
    if mask is not None and inputs.shape[1] > mask.shape[1]:
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    residual = targets - inputs @ matrix.float().T
    bounds = readers.ranges(inputs.shape[1])
    for start, end in bounds * (1 if len(bounds) == 1 else SWEEPS):
        part = inputs[:, start:end]
        allowed = None if mask is None else mask[:, start:end]
        change = _step(part, residual, allowed, damping)
        matrix[:, start:end] += change
        residual = residual - part @ change.float().T
    return matrix


def _step(part: Tensor, residual: Tensor, mask: Tensor | None, damping: float) -> Tensor:
    """Return the change of the weights of some columns that best fits `residual`."""
    scale = damping * float(part.double().square().sum()) / part.shape[1]
    if mask is None and len(part) < part.shape[1]:  # the dual system is the smaller one
        products = (part @ part.T).double()
        products += scale * torch.eye(len(part), dtype=torch.float64, device=part.device)
        dual: Tensor = torch.linalg.solve(products, residual.double())
        return dual.T @ part.double()
    moments = (part.T @ part).double()
    moments += scale * torch.eye(len(moments), dtype=torch.float64, device=part.device)
    slope = (part.T @ residual).double()
    if mask is None:
        solved: Tensor = torch.linalg.solve(moments, slope)
        return solved.T
    return _masked(moments, slope.T, mask)


def _masked(moments: Tensor, slope: Tensor, mask: Tensor) -> Tensor:
    """Return the change x, zero outside `mask`, with x moments = slope inside it.

    Conjugate gradients for all rows at once, preconditioned by the diagonal: a direct solution
    would need a factorization per row, since rows differ in their columns.
    """
    diagonal = moments.diagonal().clamp(min=torch.finfo(torch.float64).tiny)
    change = torch.zeros_like(slope)
    residual = slope * mask
    scaled = direction = residual / diagonal
    norm = (residual * scaled).sum(1, keepdim=True)
    for _ in range(ITERATIONS):
        product = (direction @ moments) * mask
        curvature = (direction * product).sum(1, keepdim=True)
        step_size = torch.where(curvature > 0, norm / curvature, 0)
        change += step_size * direction
        residual = residual - step_size * product
        scaled = residual / diagonal
        previous, norm = norm, (residual * scaled).sum(1, keepdim=True)
        direction = scaled + torch.where(previous > 0, norm / previous, 0) * direction
    return change


def write(module: nn.Module, matrix: Tensor) -> None:
    """Store a matrix as new parameters of a layer; the old ones may belong to the whole model."""
    old, shift = matrices.weight(module), matrices.bias(module)
    if shift is not None:
        values = matrix[:, -1].to(shift.dtype).clone()
        module.bias = nn.Parameter(values, requires_grad=shift.requires_grad)
        matrix = matrix[:, :-1]
    values = matrix.reshape(old.shape).to(old.dtype)
    values = (values.T if matrices.transposed(module) else values).contiguous()
    module.weight = nn.Parameter(values, requires_grad=matrices.trainable(module))
