"""Networks that several tests of techniques prune."""

import torch
from torch import Tensor, nn


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
