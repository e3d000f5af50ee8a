"""Refit the remaining weights of layers to the outputs of the whole layers, by least squares."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spaces.modules import call, concatenate, plain
from spaces.modules.structure import Removal, matrices, readers
from spaces.pruning.goals import Goal, Goals

DAMPING = 0.01
"""Ridge towards the current weights, as a share of the mean diagonal of the moments."""
BYTES = 2**27
"""Largest input or output of a layer over all samples; of larger ones fewer samples are used."""
SWEEPS = 3
"""Number of passes over the blocks of columns of a wide layer."""
ITERATIONS = 20
"""Steps of conjugate gradients, used if outputs differ in the columns that they may use."""


class _AllRefitted(Exception):
    """Raised by a hook after the last layer to end the forward pass early."""


def refit(model: nn.Module, goals: Goals, removals: Sequence[Removal]) -> None:
    """Refit the layers of `model` that lost columns to the goals of the model before `removals`."""
    remaining = _remaining(removals)
    cut = {name for (name, side) in remaining if side == "in"}
    rows = {name: channels for (name, side), channels in remaining.items() if side == "out"}
    fit(model, goals, sorted(cut), rows=rows)


def fit(
    model: nn.Module,
    goals: Goals,
    names: Sequence[str],
    *,
    rows: Mapping[str, Tensor] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    damping: float = DAMPING,
) -> None:
    """Refit the layers `names` of `model` to their outputs in the whole model.

    Layers are refitted in the order of the computation. The new weights bring a layer's outputs,
    on its inputs in the changed model, as close as possible to its outputs in the whole model (He
    et al. 2017, Channel pruning for accelerating very deep networks, section 3.2), with a ridge
    towards the current weights. `rows` are the outputs that a layer still has; `masks` select the
    columns that each output may use, (outputs, columns of the weight). Layers without a goal do not
    change.
    """
    chosen = {name: goals.layers[name] for name in names if name in goals.layers}
    if chosen:
        _adjust(model, chosen, goals.inputs, rows or {}, masks or {}, damping)


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


def _adjust(
    model: nn.Module,
    goals: Mapping[str, Goal],
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
            places, targets = goals[name].first(count)
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
    systems = [
        _System(inputs[:, a:b], None if mask is None else mask[:, a:b], damping) for a, b in bounds
    ]
    for _ in range(1 if len(bounds) == 1 else SWEEPS):
        for (start, end), system in zip(bounds, systems, strict=True):
            change = system.step(residual)
            matrix[:, start:end] += change
            residual = residual - inputs[:, start:end] @ change.float().T
    return matrix


class _System:
    """The damped normal equations of some columns, factorized once for all sweeps."""

    def __init__(self, part: Tensor, mask: Tensor | None, damping: float) -> None:
        """Set up the system of the columns `part`, (places, columns)."""
        self._part, self._mask = part, mask
        places, columns = part.shape
        scale = damping * float(part.square().sum(dtype=torch.float64)) / columns
        scale *= readers.scarcity(columns, places)
        # the dual system is the smaller one if there are fewer places than columns
        self._dual = mask is None and len(part) < part.shape[1]
        products = (part @ part.T if self._dual else part.T @ part).double()
        products.diagonal().add_(scale)
        self._moments = products
        self._factor = _factor(products) if mask is None else None

    def step(self, residual: Tensor) -> Tensor:
        """Return the change of the columns' weights that best fits `residual`."""
        if self._dual:
            dual = self._solved(residual.double())
            return (dual.T.float() @ self._part).double()
        slope = (self._part.T @ residual).double()
        if self._mask is not None:
            return _masked(self._moments, slope.T, self._mask)
        return self._solved(slope).T

    def _solved(self, right: Tensor) -> Tensor:
        if self._factor is None:
            general: Tensor = torch.linalg.solve(self._moments, right)
            return general
        return torch.cholesky_solve(right, self._factor)


def _factor(products: Tensor) -> Tensor | None:
    """Return Cholesky's factor; None if rounding or infinite values leave none."""
    factor, failed = torch.linalg.cholesky_ex(products)
    return None if int(failed) else factor


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
