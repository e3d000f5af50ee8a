"""How many bits each weight gets: what its rounding costs the loss, measured on training data."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from spaces._inputs import call, length, plain, rows
from spaces._modes import evaluating
from spaces._plan import Encoding
from spaces._seeding import seeded
from spaces._task import Task
from spaces.quantize._grid import fitted, rounded
from spaces.quantize._layers import Layer, layers, uniform

WIDTHS = (8, 6, 4, 3, 2)
"""Bits that a layer may get."""
SAMPLES = 96
"""Training samples whose gradients are looked at."""


def widths(model: nn.Module, task: Task | None, encoding: Encoding) -> dict[str, int]:
    """Return the bits of every weight by name; only a mean width needs the task.

    Raises ValueError without a task when widths are to be allocated.
    """
    found = layers(model)
    if encoding.mean_bits >= 32:
        return uniform(found, encoding.weight_bits)
    if task is None:
        raise ValueError("bits are allocated to layers from training data, and there is no task")
    frozen = [layer.weight for layer in found.values() if not layer.weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        with evaluating(model):
            costs = sensitivity(model, task, encoding)
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    sizes = {name: layer.weight.numel() for name, layer in found.items()}
    return allocated(costs, sizes, encoding.mean_bits)


def sensitivity(model: nn.Module, task: Task, encoding: Encoding) -> dict[str, list[float]]:
    """Return, for each weight, what each of WIDTHS adds to the loss when it alone is rounded.

    Half the mean square of <gradient of one sample's loss, rounding error>: the error that a
    layer's outputs make, weighted by the Fisher information there, with all places of a sample
    taken together. Source: Theis et al. 2018, section 3.1, with the whole matrix in the
    direction of the error in place of its diagonal.
    """
    found = layers(model)
    errors = {name: _errors(layer, encoding) for name, layer in found.items()}
    costs = {name: [0.0] * len(WIDTHS) for name in found}
    count = 0
    with torch.enable_grad():
        for inputs, targets in _samples(task):
            weights = [layer.weight for layer in found.values()]
            loss = task.loss(call(model, inputs), targets)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            count += 1
            for name, gradient in zip(found, gradients, strict=True):
                if gradient is not None:
                    products = (errors[name] @ gradient.flatten()).square()
                    costs[name] = [c + float(p) for c, p in zip(costs[name], products, strict=True)]
    return {name: [c / (2 * max(count, 1)) for c in costs[name]] for name in found}


def allocated(
    costs: dict[str, list[float]], sizes: dict[str, int], mean_bits: float
) -> dict[str, int]:
    """Return the bits of every weight that cost least at up to `mean_bits` on average.

    An integer programme: one of WIDTHS for each weight, its bits counted by its size. A mean
    below the least width gets that width everywhere.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # half a second, and rarely needed

    names, options = list(costs), len(WIDTHS)
    if mean_bits <= min(WIDTHS):
        return dict.fromkeys(names, min(WIDTHS))
    cost = np.array([costs[name] for name in names])
    cost = cost / max(float(cost.max()), 1e-30)
    # with nothing to choose between costs the wider grid is the safer one
    cost += 1e-9 * (max(WIDTHS) - np.array(WIDTHS))
    one_each = np.kron(np.eye(len(names)), np.ones(options))
    share = np.array([sizes[name] for name in names]) / sum(sizes.values())
    bits = np.kron(share, np.array(WIDTHS))[None]
    result = milp(
        cost.flatten(),
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(bits, -math.inf, mean_bits + 1e-9),
        ],
        options={"mip_rel_gap": 1e-4, "time_limit": 10.0},
    )
    chosen = result.x.reshape(cost.shape).argmax(1)
    return {name: WIDTHS[index] for name, index in zip(names, chosen.tolist(), strict=True)}


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
