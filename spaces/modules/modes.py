"""Contexts for evaluation mode, and for backward passes in evaluation mode."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; restore the mode of each module on exit."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Enable backward passes through a model in evaluation mode.

    cuDNN differentiates recurrent layers in training mode only, so models with such layers run
    without cuDNN. The context must include the forward pass.
    """
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    with torch.backends.cudnn.flags(enabled=False, deterministic=True, allow_tf32=False):
        yield
