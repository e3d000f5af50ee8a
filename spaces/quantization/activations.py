"""Quantization-aware training: what enters layers is rounded, with steps that are learned."""

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
"""Layers that runtimes compute in integers; whether their weights are held to a grid or not."""
SAMPLES = 64
"""Training samples from which the first steps are taken."""
LEAST = 1e-3
"""Share of its first value below which a step must not shrink."""
NAME = "rounding"
"""Of the module that rounds, as long as it is a child of the layer that it rounds for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations(Constraint):
    """Rounds what enters linear and convolution layers while they are trained; nothing is left.

    A tensor has one step, which is trained with the weights, and codes that reach from its
    smallest to its largest value on training samples, zero among them: unsigned where nothing
    negative enters, as runtimes calibrate. Rounding passes gradients straight through. Runtimes
    find their own ranges afterwards; what stays of the training is weights that bear them.
    Source: Esser et al. 2020, Learned Step Size Quantization, section 2; Jacob et al. 2018,
    section 3.1, for first steps from the extremes. Layers that float8 computes round by
    themselves, and attention's own matrices (nn.MultiheadAttention) read unrounded values.
    """

    shardable = True
    bits: int = 8
    tolerance: float = 0.0
    """Error of the outputs, as a share of their mean square, up to which nothing is rounded. Above
    0 nothing is rounded either in networks of mainly linear layers: runtimes find their ranges
    anew at every run."""

    def needed(self, model: nn.Module, task: Task) -> Self | None:
        """Return rounding that asks no more whether it is worth it; None where it is not."""
        if not self.tolerance:
            return self
        always = dataclasses.replace(self, tolerance=0.0)
        inputs = example(task, SAMPLES, next(model.parameters()).device).inputs
        ranges, exact = _ranges(model, inputs)
        linear = sum(isinstance(module, nn.Linear) for module in ranges)
        if 2 * linear >= len(ranges):
            return None
        with always.hold(model, task):
            pairs = list(zip(_outputs(model, inputs), exact, strict=True))
        error = sum(float((found - wanted).square().sum()) for found, wanted in pairs)
        power = sum(float(wanted.square().sum()) for _, wanted in pairs)
        return always if error > self.tolerance * power else None

    @contextlib.contextmanager
    def hold(self, model: nn.Module, task: Task) -> Iterator[Project]:
        """Round what enters the layers of `model` until the context ends."""
        inputs = example(task, SAMPLES, next(model.parameters()).device).inputs
        held: list[_Rounding] = []
        with contextlib.ExitStack() as hooks:
            for module, (low, high) in _ranges(model, inputs)[0].items():
                rounding = _Rounding(low, high, self.bits)
                hooks.enter_context(_entered(module, rounding))
                held.append(rounding)
            yield lambda: _keep_apart(held)


class _Rounding(nn.Module):
    """activation -> the nearest value of its grid, with gradients to activation and step.

    The step is held as a share of its first value: AdamW, whose updates have one length, moves a
    small step no farther than a large one, for its size. The gradient is not scaled up to move
    steps as far under SGD too: where inputs share their largest value, it took the clipped norm
    over, and a loss of 0.15 rose to 1.1.
    """

    first: Tensor

    def __init__(self, low: Tensor, high: Tensor, bits: int) -> None:
        super().__init__()
        top = 2**bits - 1
        first = ((high - low) / top).float()
        self.register_buffer("first", first.reshape(1))
        # one dimension, so that it is not decayed; see the optimizer of the loop
        self.size = nn.Parameter(torch.ones_like(self.first))
        zero = round(float(-low / first))
        self.low, self.high = -zero, top - zero

    def forward(self, activation: Tensor) -> Tensor:
        features = activation[:1].numel()
        # the gradient of a step is as large, for its size, as those of weights (section 2.2)
        factor = (features * self.high) ** -0.5 if features and self.high else 0.0
        step = self.first * (self.size * factor + (self.size * (1 - factor)).detach())
        rounded: Tensor = _Round.apply(activation, step, self.low, self.high)  # type: ignore[no-untyped-call]
        return rounded


class _Round(torch.autograd.Function):
    """Rounding to whole steps within two codes, gradients straight through.

    Written out, since the same in autograd's terms keeps five tensors a layer and takes three
    times as long: 59 to 78 ms for 2.1 million values, forth and back on one thread, not 19 to 32.
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
        """Return the gradients of x, which is nothing outside of the range, and of the step."""
        (gradient,), (x, y) = gradients, ctx.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(gradient, x, *ctx.ends)
        missed = torch.ops.aten.hardtanh_backward(x, x, *ctx.ends).sub_(y)
        slope = -missed.float().mul_(gradient).sum() / ctx.size
        return inside, slope.reshape(1), None, None


def _ranges(
    model: nn.Module, inputs: Inputs
) -> tuple[Mapping[nn.Module, tuple[Tensor, Tensor]], list[Tensor]]:
    """Return the extremes, zero between them, of what enters each layer, and the outputs."""
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = _argument(args, kwargs).detach().float()
        if not values.numel():  # an expert that no sample was sent to
            return
        zero = values.new_zeros(())
        low, high = found.get(module, (zero, zero))
        found[module] = (torch.minimum(low, values.amin()), torch.maximum(high, values.amax()))

    with contextlib.ExitStack() as hooks:
        for module in (m for m in model.modules() if isinstance(m, ROUNDED)):
            hooks.callback(module.register_forward_pre_hook(watch, with_kwargs=True).remove)
        outputs = _outputs(model, inputs)
    spans = {module: float(high - low) for module, (low, high) in found.items()}
    kept = {module: found[module] for module, span in spans.items() if 0 < span < math.inf}
    return kept, outputs


def _outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the floating-point outputs in evaluation mode."""
    with torch.no_grad(), evaluating(model):
        tensors, _ = flatten(call(model, inputs))
    return [tensor.float() for tensor in tensors if tensor.is_floating_point()]


@contextlib.contextmanager
def _entered(module: nn.Module, rounding: _Rounding) -> Iterator[None]:
    """Let `rounding`, as a child of `module` whose step is trained, round what enters it."""
    module.add_module(NAME, rounding)
    handle = module.register_forward_pre_hook(_enter, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        delattr(module, NAME)


def _enter(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a layer with the first one rounded."""
    values = module.get_submodule(NAME)(_argument(args, kwargs))
    return (values, *args[1:]), {k: v for k, v in kwargs.items() if k != "input"}


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return what enters a linear or convolution layer."""
    values: Tensor = args[0] if args else kwargs["input"]
    return values


def _keep_apart(held: list[_Rounding]) -> None:
    """Keep every step above zero: a grid that folds up cannot be trained any more."""
    with torch.no_grad():
        for rounding in held:
            rounding.size.clamp_(min=LEAST)
