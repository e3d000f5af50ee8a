"""Re-estimate the running statistics of batch normalisation after weights have changed."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from spaces.memory import FORGETFUL, Memory
from spaces.modules import samples
from spaces.modules.layer_types import BatchNorm
from spaces.modules.modes import evaluating
from spaces.modules.trees import call, flatten, length, plain, rows
from spaces.task import Task

BATCH = 128
"""Samples of one batch."""
MOST = 1024
"""Largest number of samples; of large models fewer are affordable."""
FEWEST = 32
"""Smallest number of samples, and of a last batch that is cut."""
KEPT = 2**28
"""Largest number of bytes of inputs that are kept; more are read from the task each time."""


def reestimate(
    model: nn.Module,
    task: Task,
    *,
    count: int | None = None,
    seed: int = 0,
    memory: Memory = FORGETFUL,
) -> None:
    """Set running means and variances to their averages over `count` training samples.

    All batches have the same weight (Ioffe and Szegedy 2015, section 3.1, with a plain average
    instead of a moving one). By default there are as many
    samples as are affordable, up to MOST. A model without such statistics is not run.
    """
    layers = [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
    if not layers:
        return
    momenta = [m.momentum for m in layers]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluating(model):
            torch.manual_seed(seed)
            if count is None:
                count = max(FEWEST, samples.count(model, task, memory, MOST))
            follows_from = {"samples": count, "batch": BATCH, "seed": seed}
            torch.manual_seed(seed)
            kept = memory.remembered("inputs", follows_from, lambda: _listed(task, count))
            torch.manual_seed(seed)
            _average(model, layers, _inputs(task, count) if kept is None else kept)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _average(model: nn.Module, layers: list[BatchNorm], batches: Iterable[Any]) -> None:
    """Run training batches through `model` with only `layers` in training mode."""
    for number, inputs in enumerate(batches):
        if number == 0:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # in torch, this selects the cumulative average
                layer.training = True
        call(model, inputs)


def _inputs(task: Task, count: int) -> Iterator[Any]:
    """Yield the inputs of training batches until they hold `count` samples."""
    seen = 0
    for inputs, _ in task.batches("train", BATCH):
        if length(inputs) < 2:  # a variance needs two values
            continue
        yield plain(rows(inputs, slice(0, max(FEWEST, count - seen))))
        seen += length(inputs)
        if seen >= count:
            return


def _listed(task: Task, count: int) -> list[Any] | None:
    """Return the inputs as a list; None if they are more than KEPT bytes."""
    batches, total = [], 0
    for inputs in _inputs(task, count):
        total += sum(t.numel() * t.element_size() for t in flatten(inputs)[0])
        if total > KEPT:
            return None
        batches.append(inputs)
    return batches
