"""How many bits each weight gets: what its rounding costs the loss, and how long layers take."""

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
"""Training samples whose gradients are looked at."""


WORTH = 0.1
"""What all of the layers' time is worth: this share of the loss's standard error on SAMPLES."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What rounding costs the loss, as far as some training samples tell."""

    costs: Mapping[str, Sequence[float]]
    """For each weight, what each of WIDTHS adds to the loss when it alone is rounded."""
    error: float
    """Standard error of the loss of those samples: what is far below it, they cannot show."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Allocation:
    """The bits of every weight, and the milliseconds that its layers are said to take."""

    bits: Mapping[str, int]
    predicted: float
    """Sum of the times of the layers, each alone; 0 where there are none."""
    width: int
    """The single width that does best within the mean."""
    single: float
    """The milliseconds of the layers with that width everywhere."""


def widths(model: nn.Module, task: Task | None, encoding: Encoding) -> dict[str, int]:
    """Return the bits of every weight by name; only a mean width without them needs the task.

    Raises ValueError without a task when widths are to be allocated.
    """
    found = layers(model)
    if encoding.mean_bits >= 32:
        return uniform(found, encoding.weight_bits)
    if encoding.widths:
        given = dict(encoding.widths)
        return {name: given[name] for name in found}
    if task is None:
        raise ValueError("bits are allocated to layers from training data, and there is no task")
    return dict(allocation(model, task, encoding, {}).bits)


def allocation(
    model: nn.Module, task: Task, encoding: Encoding, times: Mapping[str, Sequence[float]]
) -> Allocation:
    """Return the best bits of every weight of `model`; see `allocated`."""
    found = layers(model)
    frozen = [layer.weight for layer in found.values() if not layer.weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        with evaluating(model):
            measured = sensitivity(model, task, encoding)
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    sizes = {name: layer.weight.numel() for name, layer in found.items()}
    return allocated(measured, sizes, encoding.mean_bits, times)


def sensitivity(model: nn.Module, task: Task, encoding: Encoding) -> Sensitivity:
    """Return, for each weight, what each of WIDTHS adds to the loss when it alone is rounded.

    Half the mean square of <gradient of one sample's loss, rounding error>: the error that a
    layer's outputs make, weighted by the Fisher information there, with all places of a sample
    taken together. Source: Theis et al. 2018, section 3.1, with the whole matrix in the
    direction of the error in place of its diagonal.
    """
    found = layers(model)
    errors = {name: _errors(layer, encoding) for name, layer in found.items()}
    costs = {name: [0.0] * len(WIDTHS) for name in found}
    losses: list[float] = []
    with torch.enable_grad(), differentiable(model):
        for inputs, targets in _samples(task):
            weights = [layer.weight for layer in found.values()]
            loss = task.loss(call(model, inputs), targets)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            losses.append(float(loss.detach()))
            for name, gradient in zip(found, gradients, strict=True):
                if gradient is not None:
                    products = (errors[name] @ gradient.flatten()).square()
                    costs[name] = [c + float(p) for c, p in zip(costs[name], products, strict=True)]
    count = max(len(losses), 1)
    means = {name: [c / (2 * count) for c in costs[name]] for name in found}
    return Sensitivity(costs=means, error=float(np.std(losses or [0.0])) / count**0.5)


def allocated(
    measured: Sensitivity,
    sizes: Mapping[str, int],
    mean_bits: float,
    times: Mapping[str, Sequence[float]],
) -> Allocation:
    """Return the bits of every weight that do best at up to `mean_bits` on average.

    An integer programme: one of WIDTHS for each weight, its bits counted by its size. It
    minimises what the loss gains plus what the layers' time is worth (`times`: milliseconds of
    each weight's layers with each of WIDTHS; where there are none, the loss alone), and is never
    slower than the single width that does best by the same measure. A mean below the least
    width gets that width everywhere. Source: Yao et al. 2021, HAWQ-V3, section 3, whose
    programme bounds the latency.

    Why time has a price here, and no bound of its own: the mean is the one thing that is asked
    for. Bounded by the fastest single width, every mean would end at 2 bits wherever fewer bits
    are faster; bounded by the widest alone, a mean of 6 would keep 6 bits in all layers where 8
    and 4 have kernels and 6 has none. At WORTH, a tenth of the time may cost a hundredth of
    the loss's standard error: time decides where losses are alike, and nowhere else.
    """
    names = list(measured.costs)
    cost = np.array([measured.costs[name] for name in names])
    spent = np.array([times.get(name, [0.0] * len(WIDTHS)) for name in names])
    fitting = [i for i, bits in enumerate(WIDTHS) if bits <= mean_bits] or [len(WIDTHS) - 1]
    if total := float(spent[:, fitting[0]].sum()):
        # from the fastest on: where no time differs, it must not round anything
        cost = cost + WORTH * measured.error * (spent - spent.min(1, keepdims=True)) / total
    best = min(fitting, key=lambda i: float(cost[:, i].sum()))
    single = float(spent[:, best].sum())
    chosen = np.full(len(names), best)
    if mean_bits > min(WIDTHS):
        chosen = _solved(cost, np.array([sizes[name] for name in names]), mean_bits, spent, single)
    return Allocation(
        bits={name: WIDTHS[i] for name, i in zip(names, chosen.tolist(), strict=True)},
        predicted=float(spent[np.arange(len(names)), chosen].sum()),
        width=WIDTHS[best],
        single=single,
    )


def _solved(cost: Array, sizes: Array, mean_bits: float, spent: Array, most: float) -> Array:
    """Return, for each weight, which of WIDTHS costs least within the mean and the time."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # half a second, and rarely needed

    cost = cost / max(float(cost.max()), 1e-30)
    # with nothing to choose between costs the wider grid is the safer one
    cost = cost + 1e-9 * (max(WIDTHS) - np.array(WIDTHS))
    one_each = np.kron(np.eye(len(cost)), np.ones(len(WIDTHS)))
    bits = np.kron(sizes / sizes.sum(), np.array(WIDTHS))[None]
    limits = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(bits, -math.inf, mean_bits + 1e-9),
    ]
    if most > 0:
        limits.append(LinearConstraint(spent.reshape(1, -1) / most, -math.inf, 1 + 1e-9))
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
    """Return what rounding to each of WIDTHS adds to a weight, (widths, values)."""
    weight = layer.weight.detach().float()
    missed = []
    for bits in WIDTHS:
        values = weight.reshape(len(weight), -1, layer.group(encoding, bits))
        scale, zero = fitted(values, bits, symmetric=encoding.symmetric)
        near = (rounded(values, scale, zero, bits) - zero) * scale
        missed.append((near - values).flatten())
    return torch.stack(missed)


def _samples(task: Task) -> list[tuple[object, object]]:
    """Return the first training samples, one by one, the same ones every time."""
    found: list[tuple[object, object]] = []
    with seeded(0):
        for inputs, targets in task.batches("train", SAMPLES):
            for index in range(min(length(inputs), SAMPLES - len(found))):
                one = slice(index, index + 1)
                found.append((plain(rows(inputs, one)), plain(rows(targets, one))))
            if len(found) >= SAMPLES:
                break
    return found
