"""A task whose batches lie on the device where a model is computed."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spaces.devices import HOST, device_of, on_host
from spaces.modules.trees import transform
from spaces.task import Inputs, Split, Targets, Task

COPIES = 4
"""Times its own bytes that working on a model takes: itself, a copy, gradients or moments."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Placed(Task):
    task: Task
    device: torch.device

    def model(self) -> nn.Module:
        return self.task.model()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Inputs, Targets]]:
        for inputs, targets in self.task.batches(split, batch_size):
            yield transform(inputs, self._here), self._near(targets)

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        return self.task.loss(outputs, targets)

    def score(self, outputs: Any, targets: Targets) -> float:
        return self.task.score(outputs, targets)

    def describe(self) -> dict[str, str]:
        return self.task.describe()

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)

    def _near(self, targets: Targets) -> Targets:
        try:
            return transform(targets, self._here)
        except TypeError:  # anything that only the user's own functions understand
            return targets


def placed(task: Task, device: torch.device | str) -> Task:
    """Return `task` with inputs and targets on `device`; on the host it is the task itself.

    Targets that are not made of tensors stay what they are.
    """
    return task if on_host(device) else _Placed(task, torch.device(device))


def workplace(model: nn.Module, device: torch.device | str) -> torch.device:
    """Return where to work on `model`: on `device`, or on the host where it has no room there."""
    tensors = (*model.parameters(), *model.buffers())
    needed = COPIES * sum(t.numel() * t.element_size() for t in tensors)
    free, _ = device_of(device).memory()
    return torch.device(device) if needed < free else HOST
