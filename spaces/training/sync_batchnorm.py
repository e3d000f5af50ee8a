"""Batch normalisation with the statistics of all devices' samples, also on CPUs."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from spaces.modules import BatchNorm


@contextlib.contextmanager
def batches_joined(model: nn.Module) -> Iterator[None]:
    """Let each batch normalisation of `model` use the statistics of all devices' samples.

    Like nn.SyncBatchNorm, which supports GPUs only, but without replacing modules.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    for norm in norms:
        norm.forward = functools.partial(_forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: BatchNorm, x: Tensor) -> Tensor:
    if not norm.training:
        forward: Callable[..., Tensor] = type(norm).forward
        return forward(norm, x)
    y, mean, variance, count = _Normalise.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, norm.eps
    )
    if norm.running_mean is not None and norm.running_var is not None:
        _update_statistics(norm, mean, variance * count / (count - 1).clamp_min(1))
    return y  # type: ignore[no-any-return]


@torch.no_grad()
def _update_statistics(norm: BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics towards those of a batch (`variance` is the unbiased one)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:
        momentum = 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum)


class _Normalise(torch.autograd.Function):
    """Normalisation with the mean and variance over all devices, and its gradient.

    Source: Ioffe and Szegedy 2015, section 3; sums over the batch become sums over devices too.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the output and, for the running statistics, mean, variance and count."""
        wide = x.float()
        axes = _axes(x)
        total = torch.cat([wide.sum(axes), wide.new_tensor([x.numel() / x.shape[1]])])
        dist.all_reduce(total)
        mean, count = total[:-1] / total[-1], total[-1]
        # a second pass over the data: the mean of squares minus the squared mean loses digits
        variance = (wide - _along(mean, x)).square().sum(axes)
        dist.all_reduce(variance)
        variance = variance / count
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, variance, count)
        y = F.batch_norm(wide, mean, variance, weight, bias, False, 0.0, eps)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias; those of parameters are this device's."""
        x, weight, mean, scale, count = ctx.saved_tensors
        gradient, axes = gradients[0].float(), _axes(x)
        normal = (x.float() - _along(mean, x)) * _along(scale, x)
        sums = torch.stack([gradient.sum(axes), (gradient * normal).sum(axes)])
        local_sums = sums.clone()
        dist.all_reduce(sums)
        sums = sums / count
        inner = gradient - _along(sums[0], x) - normal * _along(sums[1], x)
        inner = inner * _along(scale if weight is None else scale * weight, x)
        if weight is None:
            return inner.to(x.dtype), None, None, None
        return inner.to(x.dtype), local_sums[1], local_sums[0], None


def _axes(x: Tensor) -> list[int]:
    """Return the dimensions over which statistics are computed: all except the channels."""
    return [0, *range(2, x.dim())]


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Reshape `values`, one per channel, so that they broadcast to `x`."""
    return values.view(1, -1, *[1] * (x.dim() - 2))
