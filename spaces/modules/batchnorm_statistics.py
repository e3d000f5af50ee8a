"""Re-estimate the running statistics of batch normalisation after weights have changed."""

import torch
from torch import nn

from spaces.modules.layer_types import BatchNorm
from spaces.modules.modes import evaluating
from spaces.modules.trees import call, length
from spaces.task import Task

BATCH = 128
"""Samples of one batch."""


def reestimate(model: nn.Module, task: Task, *, samples: int = 1024, seed: int = 0) -> None:
    """Set running means and variances to their averages over `samples` training samples.

    All batches have the same weight (Ioffe and Szegedy 2015, section 3.1, with a plain average
    instead of a moving one). A model without such statistics is not run.
    """
    layers = [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
    if not layers:
        return
    momenta = [m.momentum for m in layers]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluating(model):
            torch.manual_seed(seed)
            _average(model, layers, task, samples)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _average(model: nn.Module, layers: list[BatchNorm], task: Task, samples: int) -> None:
    """Run training batches through `model` with only `layers` in training mode."""
    count = 0
    for inputs, _ in task.batches("train", BATCH):
        if length(inputs) < 2:  # a variance needs two values
            continue
        if count == 0:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # in torch, this selects the cumulative average
                layer.training = True
        call(model, inputs)
        count += length(inputs)
        if count >= samples:
            return
