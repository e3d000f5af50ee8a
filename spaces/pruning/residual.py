"""Recognise residual blocks: modules that return their input if all weights are zero."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.modules import BatchNorm, call, carried, own_parameters
from spaces.modules.structure import Snapshot, coupling

TOLERANCE = 1e-3
"""Largest difference from the input, relative to its largest value."""

_NORMS = (nn.LayerNorm, nn.RMSNorm)


def residual(model: nn.Module, example: Any, block: nn.Module) -> bool:
    """Return True if `block` adds something to its input and at most normalises the sum.

    Its weights are set to zero for one pass of `model`, which is in evaluation mode. Parts of
    blocks fail the test: a squeeze-excitation halves its input, a convolution returns zeros.
    """
    snapshot = Snapshot(model)
    inputs: list[Tensor | None] = []
    pairs: list[tuple[Tensor, Tensor]] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        tensor = carried(args, kwargs)
        # a copy: the block may work in place
        inputs.append(None if tensor is None else tensor.clone())

    def after(_: nn.Module, args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if inputs[-1] is not None and isinstance(first, Tensor) and first.shape == inputs[-1].shape:
            pairs.append((inputs[-1], first))

    hooks = (
        block.register_forward_pre_hook(before, with_kwargs=True),
        block.register_forward_hook(after),
    )
    try:
        _idle(block)
        with torch.no_grad():
            call(model, example)
    except coupling.BUILD_ERRORS:
        return False
    finally:
        snapshot.restore()
        for hook in hooks:
            hook.remove()
    normalised = any(isinstance(module, _NORMS) for module in block.modules())
    return bool(pairs) and all(_same(*pair, normalised) for pair in pairs)


def _same(before: Tensor, after: Tensor, normalised: bool) -> bool:
    if _close(before, after):
        return True
    width = before.shape[-1:]
    return normalised and _close(F.layer_norm(before, width), F.layer_norm(after, width))


def _close(a: Tensor, b: Tensor) -> bool:
    bound = TOLERANCE * float(b.abs().max()) + 1e-9 if b.numel() else 0.0
    return bool(torch.allclose(a, b, rtol=0.0, atol=bound))


def _idle(block: nn.Module) -> None:
    """Set weights to zero and normalisations to the identity, on copies of the parameters."""
    for module in block.modules():
        for key, parameter in own_parameters(module).items():
            is_scale = isinstance(module, _NORMS) and key == "weight"
            values = torch.full_like(parameter, float(is_scale))
            module.register_parameter(key, nn.Parameter(values, requires_grad=False))
        if isinstance(module, BatchNorm) and module.running_mean is not None:
            module.running_mean = torch.zeros_like(module.running_mean)
