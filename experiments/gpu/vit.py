"""A network of ViT-B/16's shape."""

from collections.abc import Iterator
from typing import Any

import torch
from _agreement import images, labelled, loss, score
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

__all__ = ["batches", "loss", "model", "score"]


def model() -> nn.Module:
    """Return the network with the same random weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ViTConfig(num_labels=1000, initializer_range=0.05)
        network: nn.Module = ViTForImageClassification(config)
    return network.eval()


def batches(split: str, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
    """Yield random images with the classes that the network gives them."""
    yield from labelled(model(), images, split, batch_size)
