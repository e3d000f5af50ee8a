"""Digits task: images of handwritten digits and a trained convolutional network."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Split, Task

WIDTH = 32
"""Output channels of the first convolutions."""
WEIGHTS = Path(__file__).with_name("weights.safetensors")
"""State dict of the trained network, written by experiments/train_digits.py."""
IMAGES = Path(__file__).with_name("images.safetensors")
"""uint8 images (1797, 8, 8) in 0..16 and labels (1797,), in the order of scikit-learn's
load_digits(). They are stored here because importing scikit-learn takes two seconds.
"""


class Network(nn.Module):
    """Convolutional network from pixels 0..1 (batch, 1, 8, 8) to logits (batch, 10).

    It has 8 convolutions, two of them strided.
    """

    def __init__(self) -> None:
        super().__init__()
        plan = ((1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1))
        layers: list[nn.Module] = []
        channels = 1
        for factor, stride in plan:
            layers.append(nn.Conv2d(channels, WIDTH * factor, 3, stride, 1, bias=False))
            layers += [nn.BatchNorm2d(WIDTH * factor), nn.ReLU()]
            channels = WIDTH * factor
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Task):
    """1,797 images of 8 x 8 pixels: 1,077 train, 360 validation, 360 test.

    Source: Alpaydin and Kaynak 1998, Optical recognition of handwritten digits, UCI Machine
    Learning Repository, CC BY 4.0; its test set, as scikit-learn distributes it.
    """

    def model(self) -> nn.Module:
        """Return the trained network in evaluation mode."""
        network = Network()
        network.load_state_dict(load_file(WEIGHTS))
        return network.eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (batch, 1, 8, 8) and labels (batch,); "train" is shuffled and shifted."""
        images, labels = _arrays()
        rows = {"train": slice(0, 1077), "validation": slice(1077, 1437), "test": slice(1437, 1797)}
        images, labels = images[rows[split]], labels[rows[split]]
        order = torch.randperm(len(labels)) if split == "train" else torch.arange(len(labels))
        for index in torch.split(order, batch_size):
            batch = images[index]
            if split == "train":
                top, left = torch.randint(0, 3, (2,)).tolist()
                batch = F.pad(batch, (1, 1, 1, 1))[:, :, top : top + 8, left : left + 8]
            yield batch, labels[index]

    def describe(self) -> dict[str, str]:
        """Return the task's name; it has no settings."""
        return {"name": "digits"}


@functools.cache
def _arrays() -> tuple[Tensor, Tensor]:
    """Return all images (1797, 1, 8, 8) in 0..1 and labels (1797,) in a fixed shuffled order."""
    arrays = load_file(IMAGES)
    images, labels = arrays["images"].float().unsqueeze(1) / 16, arrays["labels"].long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order]
