"""A task as a class of a module, as users of the Python calls write one."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from spaces import Split, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points(Task):
    """Random points, and which of their first coordinates is the largest."""

    width: int = 32

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        middle = nn.Linear(6, self.width), nn.ReLU(), nn.Linear(self.width, self.width), nn.ReLU()
        return nn.Sequential(*middle, nn.Linear(self.width, 3)).eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(len(split))
        inputs = torch.randn(96, 6, generator=generator)
        for rows in torch.arange(96).split(batch_size):
            yield inputs[rows], inputs[rows, :3].argmax(1)

    def describe(self) -> dict[str, str]:
        return {"name": "points"}
