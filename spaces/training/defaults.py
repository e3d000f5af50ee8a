"""Default learning rate, batch size and floating-point type of recovery training."""

import math
from typing import Any

import torch
from torch import nn

from spaces.devices import device_of
from spaces.modules import BatchNorm, call, counted, evaluating, length

RATE = 2e-3
"""Peak learning rate of AdamW for convolution networks and multilayer perceptrons."""
RATE_TRANSFORMER = 2e-5
"""Peak learning rate of AdamW for transformers. Of 2e-5, 5e-5, 1e-4 and 2e-4 the only one that
lowered the loss of a pruned MiniLM in batches of 8, 16, 32, 64 and 128; 5e-5 did so at 128 only."""
RATE_NORMALISED = 0.1
"""Peak learning rate of SGD for batches of RATE_BATCH samples, proportional to the batch size."""
RATE_BATCH = 256
BATCHES = (8, 256)
"""Smallest and largest batch: smaller ones have noisy gradients, larger ones gain little."""


def normalised(model: nn.Module) -> bool:
    """Return True if batch normalisation keeps the weights of `model` on one scale."""
    return any(isinstance(m, BatchNorm) for m in model.modules())


def automatic_rate(model: nn.Module, batch_size: int) -> float:
    """Return the peak learning rate for `model`: of SGD if it is `normalised`, else of AdamW.

    Transformers, recognised by their layers, need a fraction of the rate of other networks.
    """
    if normalised(model):
        return RATE_NORMALISED * batch_size / RATE_BATCH
    marks = nn.LayerNorm | nn.RMSNorm | nn.MultiheadAttention | nn.Embedding
    return RATE_TRANSFORMER if any(isinstance(m, marks) for m in model.modules()) else RATE


def automatic_batch(model: nn.Module, teacher: nn.Module | None, inputs: Any) -> int:
    """Return the samples per step: the largest power of two within the device's operations.

    `inputs` are a few samples on the models' device. The backward pass costs about twice the
    forward pass. Operations are counted, not seconds, so that repetitions agree.
    """
    cost = 3 * operations(model, inputs)
    if teacher is not None:
        cost += operations(teacher, inputs)
    budget = device_of(next(model.parameters()).device).step_flops
    affordable = budget * length(inputs) / max(cost, 1)
    low, high = BATCHES
    return max(low, min(high, int(2 ** math.floor(math.log2(affordable)))))


def automatic_type(model: nn.Module, inputs: Any) -> str:
    """Return "bfloat16" if the device of `model` gains from it and its code allows it.

    Otherwise return "float32". `inputs` are a few samples. Code that writes a layer's outputs into
    a new tensor, as mixtures of experts do, may need one type throughout, unlike autocast's.
    """
    device = next(model.parameters()).device
    if not device_of(device).native_bfloat16():
        return "float32"
    try:
        with torch.no_grad(), evaluating(model), torch.autocast(device.type, torch.bfloat16):
            call(model, inputs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError):  # TypeError if the code uses numpy, which lacks bfloat16
        return "float32"
    return "bfloat16"


def operations(model: nn.Module, inputs: Any) -> int:
    """Return the floating-point operations of a forward pass in evaluation mode."""
    with torch.no_grad(), evaluating(model):
        return counted(lambda: call(model, inputs))[1].count
