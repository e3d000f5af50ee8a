"""Allocate bits to weights by the loss that rounding costs and the time that layers take."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spaces.modules import call, differentiable, evaluating, length, plain, rows, seeded
from spaces.plan import Encoding
from spaces.quantization.grid import fitted, rounded
from spaces.quantization.layers import Layer, layers, uniform
from spaces.task import Task

Array = np.ndarray[Any, Any]
WIDTHS = (8, 6, 4, 3, 2)
"""Bits that a layer may get."""
SAMPLES = 96
"""Training samples whose gradients are computed."""


WORTH = 0.1
"""Value of all of the layers' time, as a share of the loss's standard error on SAMPLES."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Costs of rounding, estimated from some training samples."""

    costs: Mapping[str, Sequence[float]]
    """For each weight, the increase of the loss for each of WIDTHS if it alone is rounded."""
    error: float
    """Standard error of the loss on these samples; they cannot show much smaller differences."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Allocation:
    """The bits of every weight, and the predicted milliseconds of the layers."""

    bits: Mapping[str, int]
    """By the name of the weight."""
    predicted: float
    """Sum of the times of the single layers; 0 without times."""
    width: int
    """The best single width within the mean."""
    single: float
    """Milliseconds of the layers if all have that width."""


def widths(model: nn.Module, task: Task | None, encoding: Encoding) -> dict[str, int]:
    """Return the bits of every weight by name; the task is needed to allocate a mean width.

    Raises ValueError if a mean width is to be allocated without a task.
    """
    by_name = layers(model)
    if encoding.mean_bits >= 32:
        return uniform(by_name, encoding.weight_bits)
    if encoding.widths:
        bits = dict(encoding.widths)
        return {name: bits[name] for name in by_name}
    if task is None:
        raise ValueError("bits are allocated to layers from training data, and there is no task")
    return dict(allocation(model, task, encoding, {}).bits)


def allocation(
    model: nn.Module, task: Task, encoding: Encoding, times: Mapping[str, Sequence[float]]
) -> Allocation:
    """Measure the sensitivity of `model` and return the best bits of its weights: `allocated`."""
    by_name = layers(model)
    frozen = [layer.weight for layer in by_name.values() if not layer.weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        with evaluating(model):
            measured = sensitivity(model, task, encoding)
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    sizes = {name: layer.weight.numel() for name, layer in by_name.items()}
    return allocated(measured, sizes, encoding.mean_bits, times)


def sensitivity(model: nn.Module, task: Task, encoding: Encoding) -> Sensitivity:
    """Estimate, for each weight, the increase of the loss for each of WIDTHS if rounded alone.

    The cost is half the mean square of <gradient of one sample's loss, rounding error>: the error
    of a layer's outputs, weighted by their Fisher information, with all places of a sample taken
    together. Source: Theis et al. 2018, section 3.1, with the whole matrix in the direction of the
    error in place of its diagonal.
    """
    by_name = layers(model)
    errors = {name: _errors(layer, encoding) for name, layer in by_name.items()}
    costs = {name: [0.0] * len(WIDTHS) for name in by_name}
    losses: list[float] = []
    with torch.enable_grad(), differentiable(model):
        for inputs, targets in _samples(task):
            weights = [layer.weight for layer in by_name.values()]
            loss = task.loss(call(model, inputs), targets)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            losses.append(float(loss.detach()))
            for name, gradient in zip(by_name, gradients, strict=True):
                if gradient is not None:
                    products = (errors[name] @ gradient.flatten()).square()
                    costs[name] = [c + float(p) for c, p in zip(costs[name], products, strict=True)]
    count = max(len(losses), 1)
    means = {name: [c / (2 * count) for c in costs[name]] for name in by_name}
    return Sensitivity(costs=means, error=float(np.std(losses or [0.0])) / count**0.5)


def allocated(
    measured: Sensitivity,
    sizes: Mapping[str, int],
    mean_bits: float,
    times: Mapping[str, Sequence[float]],
) -> Allocation:
    """Return the bits of every weight with the smallest cost at up to `mean_bits` on average.

    An integer programme chooses one of WIDTHS for each weight and counts its bits by its size. It
    minimises the increase of the loss plus the value of the layers' time (`times`: milliseconds of
    each weight's layers with each of WIDTHS; without them, the loss alone). The result is never
    slower than the single width that is best by the same measure. A mean below the smallest width
    gets that width everywhere. Source: Yao et al. 2021, HAWQ-V3, section 3, whose programme bounds
    the latency.

    Time has a price and no bound of its own, because only the mean is prescribed. Bounded by the
    fastest single width, every mean would end at 2 bits wherever fewer bits are faster; bounded by
    the widest, a mean of 6 would keep 6 bits in all layers where 8 and 4 have kernels and 6 has
    none. At WORTH, a tenth of the time may cost a hundredth of the loss's standard error: time
    decides only between allocations of nearly equal loss.
    """
    names = list(measured.costs)
    cost = np.array([measured.costs[name] for name in names])
    durations = np.array([times.get(name, [0.0] * len(WIDTHS)) for name in names])
    allowed = [i for i, bits in enumerate(WIDTHS) if bits <= mean_bits] or [len(WIDTHS) - 1]
    if total := float(durations[:, allowed[0]].sum()):
        # relative to the fastest width, so that weights with equal times add exactly zero
        excess = durations - durations.min(1, keepdims=True)
        cost = cost + WORTH * measured.error * excess / total
    best = min(allowed, key=lambda i: float(cost[:, i].sum()))
    single = float(durations[:, best].sum())
    chosen = np.full(len(names), best)
    if mean_bits > min(WIDTHS):
        weight_sizes = np.array([sizes[name] for name in names])
        chosen = _solved(cost, weight_sizes, mean_bits, durations, single)
    return Allocation(
        bits={name: WIDTHS[i] for name, i in zip(names, chosen.tolist(), strict=True)},
        predicted=float(durations[np.arange(len(names)), chosen].sum()),
        width=WIDTHS[best],
        single=single,
    )


def _solved(cost: Array, sizes: Array, mean_bits: float, durations: Array, longest: float) -> Array:
    """Return, for each weight, the index into WIDTHS of least cost within the mean and the time."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # imported late: takes half a second

    cost = cost / max(float(cost.max()), 1e-30)
    # at equal costs the wider grid is the safer choice
    cost = cost + 1e-9 * (max(WIDTHS) - np.array(WIDTHS))
    one_each = np.kron(np.eye(len(cost)), np.ones(len(WIDTHS)))
    bits = np.kron(sizes / sizes.sum(), np.array(WIDTHS))[None]
    limits = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(bits, -math.inf, mean_bits + 1e-9),
    ]
    if longest > 0:
        limits.append(LinearConstraint(durations.reshape(1, -1) / longest, -math.inf, 1 + 1e-9))
    result = milp(
        cost.flatten(),
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
        constraints=limits,
        options={"mip_rel_gap": 1e-4, "time_limit": 10.0},
    )
    chosen: Array = result.x.reshape(cost.shape).argmax(1)
    return chosen


def _errors(layer: Layer, encoding: Encoding) -> Tensor:
    """Return the rounding errors of a weight with each of WIDTHS, (widths, values)."""
    weight = layer.weight.detach().float()
    errors = []
    for bits in WIDTHS:
        values = weight.reshape(len(weight), -1, layer.group(encoding, bits))
        scale, zero = fitted(values, bits, symmetric=encoding.symmetric)
        on_grid = (rounded(values, scale, zero, bits) - zero) * scale
        errors.append((on_grid - values).flatten())
    return torch.stack(errors)


def _samples(task: Task) -> list[tuple[object, object]]:
    """Return the first training samples, one by one, the same at every call."""
    samples: list[tuple[object, object]] = []
    with seeded(0):
        for inputs, targets in task.batches("train", SAMPLES):
            for index in range(min(length(inputs), SAMPLES - len(samples))):
                row = slice(index, index + 1)
                samples.append((plain(rows(inputs, row)), plain(rows(targets, row))))
            if len(samples) >= SAMPLES:
                break
    return samples
