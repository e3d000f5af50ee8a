"""Networks that several tests of techniques prune."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from spaces import Split, Task


class Made(Task):
    """A network made by a function, on random inputs of one sample's shape; targets are zeros."""

    def __init__(self, build: Callable[[], nn.Module], *shape: int, samples: int = 64) -> None:
        self.build, self.shape, self.samples = build, shape, samples

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(len(split))
        inputs = torch.randn(self.samples, *self.shape, generator=generator)
        for rows in inputs.split(batch_size):
            yield rows, torch.zeros(len(rows), dtype=torch.int64)

    def describe(self) -> dict[str, str]:
        return {"name": "made"}


def convolutions(first: int, second: int, *, pixels: int) -> list[nn.Module]:
    """Return layers from images (batch, 3, height, width) to (batch, second x pixels ** 2)."""
    return [
        nn.Conv2d(3, first, 3, padding=1),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(pixels),
        nn.Flatten(),
    ]


class Residual(nn.Module):
    """(batch, width) -> (batch, width): what it reads plus what two layers make of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))
