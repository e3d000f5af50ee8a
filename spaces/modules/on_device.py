"""Put a task's batches on a device, and choose a device with room for a model."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spaces.devices import HOST, device_of, on_host
from spaces.modules.trees import transform
from spaces.task import Inputs, Metric, Split, Targets, Task

COPIES = 4
"""Memory for processing a model, in multiples of its bytes: itself, a copy, gradients, moments."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Placed(Task):
    task: Task
    device: torch.device

    def model(self) -> nn.Module:
        return self.task.model()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Inputs, Targets]]:
        for inputs, targets in self.task.batches(split, batch_size):
            yield transform(inputs, self._to_device), self._targets_to_device(targets)

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        return self.task.loss(outputs, targets)

    def score(self, outputs: Any, targets: Targets) -> float:
        return self.task.score(outputs, targets)

    def metric(self) -> Metric | None:
        return self.task.metric()

    def describe(self) -> dict[str, str]:
        return self.task.describe()

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)

    def _targets_to_device(self, targets: Targets) -> Targets:
        try:
            return transform(targets, self._to_device)
        except TypeError:  # targets without tensors, which only the user's functions read
            return targets


def placed(task: Task, device: torch.device | str) -> Task:
    """Return `task` with inputs and targets on `device`; for the host, return the task itself.

    Targets that are not made of tensors are passed on unchanged.
    """
    return task if on_host(device) else _Placed(task, torch.device(device))


def workplace(model: nn.Module, device: torch.device | str) -> torch.device:
    """Return the device on which to process `model`: `device`, or the host if memory is short."""
    tensors = (*model.parameters(), *model.buffers())
    needed = COPIES * sum(t.numel() * t.element_size() for t in tensors)
    free, _ = device_of(device).memory()
    return torch.device(device) if needed < free else HOST
