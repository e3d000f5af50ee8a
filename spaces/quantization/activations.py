"""Quantization-aware training of activations: layer inputs are rounded with learned steps."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spaces.constraint import Constraint, Project
from spaces.modules import call, evaluating, flatten
from spaces.task import Inputs, Task
from spaces.training import example

ROUNDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that runtimes compute in integers, whether or not their weights are on a grid."""
SAMPLES = 64
"""Training samples from which the initial steps are computed."""
LEAST = 1e-3
"""Smallest value of a step, as a share of its initial value."""
NAME = "rounding"
"""Name of the rounding module, while it is a child of the layer whose input it rounds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations(Constraint):
    """Rounds the inputs of linear and convolution layers during training only.

    Each input has one step, which is trained with the weights, and codes that span its smallest
    to its largest value on training samples, including zero: unsigned if no value is negative, as
    in the calibration of runtimes. Rounding passes gradients straight through. Runtimes determine
    their own ranges afterwards; the result of the training is weights that tolerate them.
    Source: Esser et al. 2020, Learned Step Size Quantization, section 2; Jacob et al. 2018,
    section 3.1, for initial steps from the extremes. Layers that compute in float8 round by
    themselves, and the matrices of nn.MultiheadAttention read unrounded values.
    """

    shardable = True
    bits: int = 8
    tolerance: float = 0.0
    """Error of the outputs, as a share of their mean square, up to which nothing is rounded. With
    a tolerance above 0, networks of mainly linear layers are not rounded either, since runtimes
    determine their ranges in every run."""

    def needed(self, model: nn.Module, task: Task) -> Self | None:
        """Return this rounding without a tolerance if its error exceeds the tolerance, or None."""
        if not self.tolerance:
            return self
        unconditional = dataclasses.replace(self, tolerance=0.0)
        inputs = example(task, SAMPLES, next(model.parameters()).device).inputs
        ranges, exact = _ranges(model, inputs)
        linear = sum(isinstance(module, nn.Linear) for module in ranges)
        if 2 * linear >= len(ranges):
            return None
        with unconditional.hold(model, task):
            pairs = list(zip(_outputs(model, inputs), exact, strict=True))
        error = sum(float((actual - expected).square().sum()) for actual, expected in pairs)
        power = sum(float(expected.square().sum()) for _, expected in pairs)
        return unconditional if error > self.tolerance * power else None

    @contextlib.contextmanager
    def hold(self, model: nn.Module, task: Task) -> Iterator[Project]:
        """Round the inputs of the layers of `model` until the context ends."""
        inputs = example(task, SAMPLES, next(model.parameters()).device).inputs
        roundings: list[_Rounding] = []
        with contextlib.ExitStack() as hooks:
            for module, (low, high) in _ranges(model, inputs)[0].items():
                rounding = _Rounding(low, high, self.bits)
                hooks.enter_context(_installed(module, rounding))
                roundings.append(rounding)
            yield lambda: _keep_positive(roundings)


class _Rounding(nn.Module):
    """activation -> the nearest value of its grid, with gradients to activation and step.

    The step is stored as a share of its initial value, so that AdamW, whose updates have equal
    length, changes small and large steps by the same proportion. The gradient is not scaled up to
    achieve this under SGD, too: for inputs that share their largest value it dominated the clipped
    norm, and a loss of 0.15 rose to 1.1.
    """

    first: Tensor

    def __init__(self, low: Tensor, high: Tensor, bits: int) -> None:
        super().__init__()
        top = 2**bits - 1
        first = ((high - low) / top).float()
        self.register_buffer("first", first.reshape(1))
        # one-dimensional, since the loop's optimizer does not decay such parameters
        self.size = nn.Parameter(torch.ones_like(self.first))
        zero = round(float(-low / first))
        self.low, self.high = -zero, top - zero

    def forward(self, activation: Tensor) -> Tensor:
        features = activation[:1].numel()
        # makes the gradient of a step, relative to its size, as large as that of weights (2.2)
        factor = (features * self.high) ** -0.5 if features and self.high else 0.0
        step = self.first * (self.size * factor + (self.size * (1 - factor)).detach())
        rounded: Tensor = _Round.apply(activation, step, self.low, self.high)  # type: ignore[no-untyped-call]
        return rounded


class _Round(torch.autograd.Function):
    """Rounding to multiples of a step between two codes, with straight-through gradients.

    The same in autograd operations stores five tensors per layer and takes three times as long: 59
    to 78 ms for 2.1 million values, forward and backward on one thread, instead of 19 to 32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        """Return x rounded to (low, ..., high) x step."""
        size = step.item()
        y = (x / size).round_().clamp_(low, high).mul_(size)
        ctx.save_for_backward(x, y)
        ctx.size, ctx.ends = size, ((low - 0.5) * size, (high + 0.5) * size)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, which is zero outside the range, and of the step."""
        (gradient,), (x, y) = gradients, ctx.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(gradient, x, *ctx.ends)
        error = torch.ops.aten.hardtanh_backward(x, x, *ctx.ends).sub_(y)
        slope = -error.float().mul_(gradient).sum() / ctx.size
        return inside, slope.reshape(1), None, None


def _ranges(
    model: nn.Module, inputs: Inputs
) -> tuple[Mapping[nn.Module, tuple[Tensor, Tensor]], list[Tensor]]:
    """Return the range of each layer's input, extended to zero, and the model's outputs."""
    ranges: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = _input(args, kwargs).detach().float()
        if not values.numel():  # as for an expert to which no sample is routed
            return
        zero = values.new_zeros(())
        low, high = ranges.get(module, (zero, zero))
        ranges[module] = (torch.minimum(low, values.amin()), torch.maximum(high, values.amax()))

    with contextlib.ExitStack() as hooks:
        for module in (m for m in model.modules() if isinstance(m, ROUNDED)):
            hooks.callback(module.register_forward_pre_hook(watch, with_kwargs=True).remove)
        outputs = _outputs(model, inputs)
    spans = {module: float(high - low) for module, (low, high) in ranges.items()}
    usable = {module: ranges[module] for module, span in spans.items() if 0 < span < math.inf}
    return usable, outputs


def _outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the floating-point outputs in evaluation mode."""
    with torch.no_grad(), evaluating(model):
        tensors, _ = flatten(call(model, inputs))
    return [tensor.float() for tensor in tensors if tensor.is_floating_point()]


@contextlib.contextmanager
def _installed(module: nn.Module, rounding: _Rounding) -> Iterator[None]:
    """Round the inputs of `module` by `rounding`, a child module so that its step is trained."""
    module.add_module(NAME, rounding)
    handle = module.register_forward_pre_hook(_round_input, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        delattr(module, NAME)


def _round_input(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a layer with its input rounded."""
    values = module.get_submodule(NAME)(_input(args, kwargs))
    return (values, *args[1:]), {k: v for k, v in kwargs.items() if k != "input"}


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the input of a linear or convolution layer."""
    values: Tensor = args[0] if args else kwargs["input"]
    return values


def _keep_positive(roundings: list[_Rounding]) -> None:
    """Keep every step above zero: a grid that has collapsed cannot be trained any more."""
    with torch.no_grad():
        for rounding in roundings:
            rounding.size.clamp_(min=LEAST)
