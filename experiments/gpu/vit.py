"""A network of ViT-B/16's shape."""

from collections.abc import Iterator
from typing import Any

import _agreement
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification


def model() -> nn.Module:
    """Return the network with the same random weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ViTConfig(num_labels=1000, initializer_range=0.05)
        network: nn.Module = ViTForImageClassification(config)
    return network.eval()


def batches(split: str, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
    """Yield random images with the classes that the network gives them."""
    yield from _agreement.labelled(model(), _images, split, batch_size)


def _images(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(count, 3, 224, 224, generator=generator)}


def loss(outputs: Any, targets: Tensor) -> Tensor:
    """Return the cross-entropy."""
    return nn.functional.cross_entropy(outputs["logits"], targets)


def score(outputs: Any, targets: Tensor) -> float:
    """Return how often the classes agree."""
    return float((outputs["logits"].argmax(-1) == targets).float().mean())
