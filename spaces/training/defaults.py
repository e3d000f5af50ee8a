"""What recovery training chooses by itself: learning rate, batch size, number format."""

import math
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spaces.devices import device_of
from spaces.modules import BatchNorm, call, evaluating, length

RATE = 2e-3
"""Peak learning rate of AdamW for convolution networks and multilayer perceptrons."""
RATE_TRANSFORMER = 2e-5
"""Peak learning rate of AdamW for transformers: of 2e-5, 5e-5, 1e-4 and 2e-4 the one that lowered
the loss of a pruned MiniLM in batches of 8, 16, 32, 64 and 128; the next did at 128 alone."""
RATE_NORMALISED = 0.1
"""Peak learning rate of SGD for batches of RATE_BATCH samples; in proportion for others."""
RATE_BATCH = 256
BATCHES = (8, 256)
"""Smallest and largest batch: below, gradients are noise; above, samples bring less and less."""


def normalised(model: nn.Module) -> bool:
    """Whether batch normalisation keeps the weights of `model` on one scale."""
    return any(isinstance(m, BatchNorm) for m in model.modules())


def automatic_rate(model: nn.Module, batch_size: int) -> float:
    """Return the peak learning rate by the kind of `model`: SGD's if it is normalised, or AdamW's.

    Transformers, known by their layers, take a fraction of what other networks take.
    """
    if normalised(model):
        return RATE_NORMALISED * batch_size / RATE_BATCH
    marks = nn.LayerNorm | nn.RMSNorm | nn.MultiheadAttention | nn.Embedding
    return RATE_TRANSFORMER if any(isinstance(m, marks) for m in model.modules()) else RATE


def automatic_batch(model: nn.Module, teacher: nn.Module | None, inputs: Any) -> int:
    """Return the samples of a step: the largest power of two within the device's operations.

    `inputs` are a few samples on the models' device. The backward pass costs about twice the
    forward pass. It counts operations rather than seconds, so that a repetition is the same.
    """
    cost = 3 * operations(model, inputs)
    if teacher is not None:
        cost += operations(teacher, inputs)
    budget = device_of(next(model.parameters()).device).step_flops
    affordable = budget * length(inputs) / max(cost, 1)
    low, high = BATCHES
    return max(low, min(high, int(2 ** math.floor(math.log2(affordable)))))


def automatic_type(model: nn.Module, inputs: Any) -> str:
    """Return "bfloat16" where the device of `model` gains from it and its code can, or "float32".

    `inputs` are a few samples. Code that puts what one layer computes into a tensor of its own
    making, as mixtures of experts do, may expect one type throughout, which autocast does not give.
    """
    device = next(model.parameters()).device
    if not device_of(device).native_bfloat16():
        return "float32"
    try:
        with torch.no_grad(), evaluating(model), torch.autocast(device.type, torch.bfloat16):
            call(model, inputs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError):  # the latter where numpy, which has no bfloat16, is asked
        return "float32"
    return "bfloat16"


def operations(model: nn.Module, inputs: Any) -> int:
    """Return the floating-point operations of a forward pass in evaluation mode."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), evaluating(model):
        call(model, inputs)
    return int(counter.get_total_flops())
