"""Evaluation mode for a while, and what it takes to differentiate in it."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into its own afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Let a model be differentiated in evaluation mode.

    cuDNN differentiates recurrent layers in training mode alone, hence a model that has any does
    without cuDNN. The context must hold the forward pass too.
    """
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    with torch.backends.cudnn.flags(enabled=False, deterministic=True, allow_tf32=False):
        yield
