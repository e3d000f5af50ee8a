"""Quantization-aware training of weights: rounded to grids with learned steps in every pass."""

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
"""Smallest value of a step, as a share of its initial value."""
INSIDE = 0.01
"""Distance, in steps, of a moved weight from the border of the cell that it was moved into."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid(Constraint):
    """Weights of few bits: rounded in every forward pass, and on their grids after training.

    The step of each grid is a parameter that is trained with the weights; rounding passes
    gradients straight through. Source: Esser et al. 2020, Learned Step Size Quantization,
    section 2; for 1 bit Rastegari et al. 2016, XNOR-Net, section 3.1. Statistics of batch
    normalisation are estimated again for the final weights.
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
        parametrized: list[tuple[Layer, _Steps]] = []
        for name, layer in layers(model).items():
            steps = _Steps(codes[name], signs=signs and codes[name].bits <= 2)
            parametrize.register_parametrization(layer.module, layer.field, steps)
            parametrized.append((layer, steps))
        try:
            yield lambda: _keep_positive(parametrized)
        finally:
            for layer, _ in parametrized:
                parametrize.remove_parametrizations(layer.module, layer.field)
        batchnorm_statistics.reestimate(model, task)


def constrained(plan: Plan, constraint: Constraint) -> Plan:
    """Return `plan` with `constraint` added to its recovery training."""
    constraints = (*plan.recovery.constraints, constraint)
    recovery = dataclasses.replace(plan.recovery, constraints=constraints)
    return dataclasses.replace(plan, recovery=recovery)


def allotted(plan: Plan, bits: Mapping[str, int]) -> Plan:
    """Return `plan` with the bits allocated to each weight, for both training and encoding."""
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
    """Return the codes of rounding with compensation, and move the weights to round to them.

    A weight moves just into the cell of its code, so that training starts from the accuracy of the
    best rounding (for a ResNet-20 with 2 bits 0.855, but 0.285 with the nearest values).
    """
    with evaluating(model):
        codes = rounded(model, task, encoding)
    for name, layer in layers(model).items():
        layer_codes = codes[name]
        signs = encoding.weight_bits == 1 and layer_codes.bits <= 2
        weight = layer.weight.detach()
        moved = _signed(weight, layer_codes) if signs else _moved(weight, layer_codes)
        layer.weight.data = moved.to(memory_format=_format(weight))
    return codes


def _signed(weight: Tensor, codes: Codes) -> Tensor:
    grid = codes.floats()
    return torch.where(grid.sign() == weight.sign(), weight, grid * INSIDE)


def _moved(weight: Tensor, codes: Codes) -> Tensor:
    grid = codes.floats()
    reach = (codes.scale * (0.5 - INSIDE)).expand(codes.codes.shape).reshape(weight.shape)
    moved = weight.clamp(grid - reach, grid + reach)
    # values beyond the last code round to it already
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
        # one-dimensional, since the loop's optimizer does not decay such parameters
        self.scale = nn.Parameter(scale)
        self.register_buffer("zero", codes.zero)
        self.factor = (self.group * max(1, self.top // 2)) ** -0.5
        self.signs = signs
        self.ternary = signs and codes.bits == 2  # binary, plus the zeros of pruning

    def forward(self, weight: Tensor) -> Tensor:
        values = weight.reshape(weight.shape[0], -1, self.group)
        # makes the gradients of steps, relative to their size, as large as those of weights (2.2)
        scale = self.scale * self.factor + (self.scale * (1 - self.factor)).detach()
        scale = scale.reshape(len(values), -1, 1)
        if self.signs:
            half = scale if self.ternary else scale / 2
            signs = values.sign() if self.ternary else (values > 0).float() * 2 - 1
            # gradients of all weights pass, since a sign has no range that they could leave
            grid: Tensor = (signs + (values - values.detach()) / half.detach()) * half
        else:
            inside = (values / scale + self.zero).clamp(0, self.top)
            whole = inside + (inside.round() - inside).detach()
            grid = (whole - self.zero) * scale
        return grid.reshape(weight.shape)


def _keep_positive(parametrized: list[tuple[Layer, _Steps]]) -> None:
    """Keep every step above zero: a grid that has collapsed cannot be trained any more."""
    with torch.no_grad():
        for _, steps in parametrized:
            steps.scale.clamp_(min=steps.least)
