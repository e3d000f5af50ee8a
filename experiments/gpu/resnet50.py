"""A network of ResNet-50's shape. Source: He et al. 2016, Deep Residual Learning, table 1."""

from collections.abc import Iterator

import torch
from _agreement import labelled, remembered
from torch import Tensor, nn

DEPTHS, SHAPE, CLASSES = (3, 4, 6, 3), (3, 224, 224), 1000


class Bottleneck(nn.Module):
    """Three convolutions beside a shortcut; the middle one has the stride."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            *_normalised(inputs, width, 1, 1),
            nn.ReLU(),
            *_normalised(width, width, 3, stride),
            nn.ReLU(),
            *_normalised(width, outputs, 1, 1),
        )
        changed = stride > 1 or inputs != outputs
        self.shortcut = (
            nn.Sequential(*_normalised(inputs, outputs, 1, stride)) if changed else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features (batch, 4 x width, height / stride, width / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


def model() -> nn.Module:
    """Return the network with the same random weights at every call."""
    return remembered("resnet50", _network)


def batches(split: str, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield random images with the classes that the network gives them."""
    yield from labelled("resnet50", model, SHAPE, split, batch_size)


def _network() -> nn.Module:
    stem = [*_normalised(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks, inputs = [], 64
    for stage, depth in enumerate(DEPTHS):
        for place in range(depth):
            stride = 2 if stage > 0 and place == 0 else 1
            blocks.append(Bottleneck(inputs, 64 << stage, stride))
            inputs = 4 * (64 << stage)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)]
    network = nn.Sequential(*stem, *blocks, *head)
    if not next(network.parameters()).is_meta:
        _settle(network)
    return network


def _normalised(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


def _settle(network: nn.Module) -> None:
    """Estimate the statistics of normalisation: after random layers alone all images look alike."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(torch.randn(16, *SHAPE))
