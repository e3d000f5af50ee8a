"""A task whose batches lie on the device where a model is computed."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

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
    """Return `task` with inputs and targets on `device`; on the CPU it is the task itself.

    Targets that are not made of tensors stay what they are.
    """
    device = torch.device(device)
    return task if device.type == "cpu" else _Placed(task, device)


@contextlib.contextmanager
def exact(device: torch.device | str) -> Iterator[None]:
    """Let convolutions on `device` compute in whole float32, the same way every time.

    On GPUs they round what they read to 10 bits (TF32) unless told otherwise: more than the
    differences that pruning and rounding are judged by.
    """
    if torch.device(device).type == "cpu":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def workplace(model: nn.Module, device: torch.device | str) -> torch.device:
    """Return where to work on `model`: on `device`, or on the CPU where it has no room there."""
    device = torch.device(device)
    if device.type == "cpu":
        return device
    tensors = (*model.parameters(), *model.buffers())
    needed = COPIES * sum(t.numel() * t.element_size() for t in tensors)
    free, _ = torch.cuda.mem_get_info(device)
    return device if needed < free else torch.device("cpu")
