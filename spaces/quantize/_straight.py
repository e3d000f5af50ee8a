"""Quantization-aware training: weights on a grid whose steps are learned, gradients through it."""

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaces import _statistics
from spaces._constraint import Constraint, Project
from spaces._plan import Encoding, Plan
from spaces._task import Task
from spaces.quantize._allocation import widths
from spaces.quantize._grid import fitted, pruned
from spaces.quantize._layers import Layer, layers

LEAST = 1e-3
"""Share of its first value below which a step must not shrink."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid(Constraint):
    """Weights of few bits: rounded in every forward pass, left on their grids at the end.

    The step of each grid is a parameter and is trained with the weights; rounding passes
    gradients straight through. Source: Esser et al. 2020, Learned Step Size Quantization,
    section 2; for 1 bit Rastegari et al. 2016, XNOR-Net, section 3.1. Statistics of batch
    normalisation are estimated again for the weights that are left.
    """

    weight_bits: int = 32
    mean_bits: float = 32
    granularity: str = "automatic"
    symmetric: bool = False

    @contextlib.contextmanager
    def hold(self, model: nn.Module, task: Task) -> Iterator[Project]:
        """Quantize the weights of `model` until the context ends."""
        encoding = Encoding(**dataclasses.asdict(self))
        found = layers(model)
        bits = widths(model, task, encoding)
        held: list[tuple[Layer, _Steps]] = []
        for name, layer in found.items():
            steps = _Steps(layer, bits[name], encoding)
            parametrize.register_parametrization(layer.module, layer.field, steps)
            held.append((layer, steps))
        try:
            yield lambda: _keep_apart(held)
        finally:
            for layer, _ in held:
                parametrize.remove_parametrizations(layer.module, layer.field)
        _statistics.reestimate(model, task)


def constrained(plan: Plan, constraint: Constraint) -> Plan:
    """Return `plan` with one more thing that training must keep to."""
    constraints = (*plan.recovery.constraints, constraint)
    recovery = dataclasses.replace(plan.recovery, constraints=constraints)
    return dataclasses.replace(plan, recovery=recovery)


class _Steps(nn.Module):
    """weight -> the nearest weight on the grid, with gradients to weight and step."""

    def __init__(self, layer: Layer, bits: int, encoding: Encoding) -> None:
        super().__init__()
        weight = layer.weight.detach()
        self.group = layer.group(encoding, bits)
        self.top = 2**bits - 1
        self.signs = bits == 1
        values = weight.reshape(weight.shape[0], -1, self.group).float()
        scale, zero = fitted(values, bits, symmetric=encoding.symmetric)
        self.least = LEAST * scale.flatten()
        # one dimension, so that it is not decayed; see the optimizer of the loop
        self.scale = nn.Parameter(scale.flatten().clone())
        self.register_buffer("zero", zero)
        self.factor = (self.group * max(1, self.top // 2)) ** -0.5
        self.ternary = self.signs and pruned(weight)

    def forward(self, weight: Tensor) -> Tensor:
        values = weight.reshape(weight.shape[0], -1, self.group)
        # gradients of steps are as large, for their size, as those of weights (section 2.2)
        scale = self.scale * self.factor + (self.scale * (1 - self.factor)).detach()
        scale = scale.reshape(len(values), -1, 1)
        if self.signs:
            half = scale if self.ternary else scale / 2
            signs = values.sign() if self.ternary else (values > 0).float() * 2 - 1
            # the gradient of all weights passes: a binary weight has no range to leave
            grid = (signs + (values - values.detach()) / half.detach()) * half
        else:
            inside = (values / scale + self.zero).clamp(0, self.top)
            whole = inside + (inside.round() - inside).detach()
            grid = (whole - self.zero) * scale
        return grid.reshape(weight.shape)


def _keep_apart(held: list[tuple[Layer, _Steps]]) -> None:
    """Keep every step above zero: a grid that folds up cannot be trained any more."""
    with torch.no_grad():
        for _, steps in held:
            steps.scale.clamp_(min=steps.least)
