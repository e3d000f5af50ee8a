"""Quantization-aware training: weights on a grid whose steps are learned, gradients through it."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaces.constraint import Constraint, Project
from spaces.modules import Codes, batchnorm_statistics, evaluating
from spaces.plan import Encoding, Plan
from spaces.quantization.encode import rounded
from spaces.quantization.layers import Layer, layers
from spaces.task import Task

LEAST = 1e-3
"""Share of its first value below which a step must not shrink."""
INSIDE = 0.01
"""Steps between a weight that was moved and the end of the cell that it was moved into."""


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
    widths: tuple[tuple[str, int], ...] = ()

    @contextlib.contextmanager
    def hold(self, model: nn.Module, task: Task) -> Iterator[Project]:
        """Quantize the weights of `model` until the context ends."""
        encoding = Encoding(**dataclasses.asdict(self))
        signs = self.weight_bits == 1
        codes = _start(model, task, encoding)
        held: list[tuple[Layer, _Steps]] = []
        for name, layer in layers(model).items():
            steps = _Steps(codes[name], signs=signs and codes[name].bits <= 2)
            parametrize.register_parametrization(layer.module, layer.field, steps)
            held.append((layer, steps))
        try:
            yield lambda: _keep_apart(held)
        finally:
            for layer, _ in held:
                parametrize.remove_parametrizations(layer.module, layer.field)
        batchnorm_statistics.reestimate(model, task)


def constrained(plan: Plan, constraint: Constraint) -> Plan:
    """Return `plan` with one more thing that training must keep to."""
    constraints = (*plan.recovery.constraints, constraint)
    recovery = dataclasses.replace(plan.recovery, constraints=constraints)
    return dataclasses.replace(plan, recovery=recovery)


def allotted(plan: Plan, bits: Mapping[str, int]) -> Plan:
    """Return `plan` with the bits that a mean was allocated as, for training and encoding alike."""
    widths = tuple(sorted(bits.items()))
    constraints = tuple(
        dataclasses.replace(c, widths=widths) if isinstance(c, Grid) and c.mean_bits < 32 else c
        for c in plan.recovery.constraints
    )
    return dataclasses.replace(
        plan,
        encoding=dataclasses.replace(plan.encoding, widths=widths),
        recovery=dataclasses.replace(plan.recovery, constraints=constraints),
    )


def _start(model: nn.Module, task: Task, encoding: Encoding) -> dict[str, Codes]:
    """Return the codes that rounding alone gives, and move the weights to where they round to.

    A weight moves by no more than it must: into the cell of its code. So training starts from
    the accuracy of the best rounding (a ResNet-20 with 2 bits: 0.855, to the nearest 0.285).
    """
    with evaluating(model):
        codes = rounded(model, task, encoding)
    for name, layer in layers(model).items():
        own = codes[name]
        signs = encoding.weight_bits == 1 and own.bits <= 2
        weight = layer.weight.detach()
        moved = _signed(weight, own) if signs else _moved(weight, own)
        layer.weight.data = moved.to(memory_format=_format(weight))
    return codes


def _signed(weight: Tensor, codes: Codes) -> Tensor:
    grid = codes.floats()
    return torch.where(grid.sign() == weight.sign(), weight, grid * INSIDE)


def _moved(weight: Tensor, codes: Codes) -> Tensor:
    grid = codes.floats()
    reach = (codes.scale * (0.5 - INSIDE)).expand(codes.codes.shape).reshape(weight.shape)
    moved = weight.clamp(grid - reach, grid + reach)
    # what is beyond the last code rounds to it already
    top = (codes.codes == 2**codes.bits - 1).reshape(weight.shape) & (weight > grid)
    bottom = (codes.codes == 0).reshape(weight.shape) & (weight < grid)
    return torch.where(top | bottom, weight, moved)


def _format(weight: Tensor) -> torch.memory_format:
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


class _Steps(nn.Module):
    """weight -> the nearest weight on the grid, with gradients to weight and step."""

    zero: Tensor

    def __init__(self, codes: Codes, *, signs: bool) -> None:
        super().__init__()
        rows, groups, self.group = codes.codes.shape
        self.top = 2**codes.bits - 1
        scale = codes.scale.expand(rows, groups, 1).flatten().clone()
        self.least = LEAST * scale
        # one dimension, so that it is not decayed; see the optimizer of the loop
        self.scale = nn.Parameter(scale)
        self.register_buffer("zero", codes.zero)
        self.factor = (self.group * max(1, self.top // 2)) ** -0.5
        self.signs = signs
        self.ternary = signs and codes.bits == 2  # binary with the zeros of pruning beside it

    def forward(self, weight: Tensor) -> Tensor:
        values = weight.reshape(weight.shape[0], -1, self.group)
        # gradients of steps are as large, for their size, as those of weights (section 2.2)
        scale = self.scale * self.factor + (self.scale * (1 - self.factor)).detach()
        scale = scale.reshape(len(values), -1, 1)
        if self.signs:
            half = scale if self.ternary else scale / 2
            signs = values.sign() if self.ternary else (values > 0).float() * 2 - 1
            # the gradient of all weights passes: a sign has no range that they could leave
            grid: Tensor = (signs + (values - values.detach()) / half.detach()) * half
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
