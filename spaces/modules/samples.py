"""Training samples from which statistics of a model are taken, as many as the time allows."""

import abc
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spaces.devices import HOST, device_of
from spaces.memory import FORGETFUL, Memory
from spaces.modules.operations import counted
from spaces.modules.seeding import seeded
from spaces.modules.trees import call, flatten, length, plain, rows, transform
from spaces.task import Task

SAMPLES = 256
"""Training samples from which statistics are taken, if they are affordable."""
FEWEST = 8
"""Smallest number of samples of any statistics."""
BATCH, SMALLEST = 32, 4
"""Largest and smallest number of samples of one forward pass."""
VALUES = 2**20
"""Values of the inputs of one forward pass; memory for larger ones is slow to get."""
OPERATIONS = 1.5e11
"""Largest number of floating-point operations of one pass over the samples: about five seconds on
one CPU core. A network of 82 million a sample is observed on 256 samples, a ResNet-50 at 224 pixels
on 16. On faster devices there are more."""

ELEMENT = 32
"""Operations of products that take as long as reading and writing a value, on a CPU core."""


def budget(model: nn.Module) -> float:
    """Return the largest number of operations of one pass over samples on the model's device."""
    device = next((p.device for p in model.parameters()), HOST)
    return OPERATIONS * device_of(device).step_flops / device_of(HOST).step_flops


def cost(model: nn.Module, task: Task, memory: Memory = FORGETFUL) -> float:
    """Return the operations that take as long as one sample in evaluation mode, at least 1.

    Beside the products, each value that a layer writes takes the time of ELEMENT operations: it
    decides in networks of depthwise convolutions.
    """
    inputs, elements = example(task, memory), 0

    def count_elements(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal elements
        elements += output.numel() if isinstance(output, Tensor) else 0

    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    hooks = [leaf.register_forward_hook(count_elements) for leaf in leaves]
    try:
        with torch.no_grad():
            products = counted(lambda: call(model, inputs))[1].count
    finally:
        for hook in hooks:
            hook.remove()
    return max((products + ELEMENT * elements) / length(inputs), 1.0)


def count(model: nn.Module, task: Task, memory: Memory = FORGETFUL, most: int = SAMPLES) -> int:
    """Return the number of samples from which statistics of `model` are taken, at most `most`."""
    return affordable(cost(model, task, memory), budget(model), most)


def affordable(operations: float, available: float, most: int = SAMPLES) -> int:
    """Return as many samples of `operations` each as are available, FEWEST to `most`."""
    return int(max(FEWEST, min(most, available / operations)))


def batches(task: Task, samples: int = SAMPLES) -> Iterator[Any]:
    """Yield the inputs of the first training samples in small batches, the same at every call."""
    with seeded(0):
        count = 0
        for inputs, _ in task.batches("train", samples):
            step = _together(inputs)
            for start in range(0, min(length(inputs), samples - count), step):
                yield plain(rows(inputs, slice(start, min(start + step, samples - count))))
            count += length(inputs)
            if count >= samples:
                return


def _together(inputs: Any) -> int:
    """Return the samples of one forward pass, by the size of one."""
    values = sum(t.numel() for t in flatten(inputs)[0]) / length(inputs)
    return int(max(SMALLEST, min(BATCH, VALUES / values)))


def kept(task: Task, memory: Memory, samples: int = SAMPLES) -> list[Any]:
    """Return the batches of `batches`, which `memory` keeps."""
    inputs: list[Any] = memory.remembered(
        "inputs", {"samples": samples, "batch": BATCH}, lambda: list(batches(task, samples))
    )
    return inputs


def example(task: Task, memory: Memory) -> Any:
    """Return the inputs of two validation samples, with which a model is traced."""

    def first() -> Any:
        inputs, _ = next(iter(task.batches("validation", 2)))
        return transform(inputs, lambda tensor: tensor)

    return memory.remembered("example", {"samples": 2}, first)


class Watcher(abc.ABC):
    """Statistics of layers, taken while a model runs over batches."""

    inputs: Any = None
    """The batch that runs."""
    batches = 0
    """Batches so far."""

    @abc.abstractmethod
    def hooks(self) -> list[RemovableHandle]:
        """Register the hooks that take the statistics, and return them."""


def run(model: nn.Module, data: Iterable[Any], *watchers: Watcher) -> None:
    """Run `model` over batches, without gradients, while all `watchers` take their statistics."""
    hooks = [hook for watcher in watchers for hook in watcher.hooks()]
    try:
        for inputs in data:
            for watcher in watchers:
                watcher.inputs = inputs
                watcher.batches += 1
            with torch.no_grad():
                call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
