"""A network of ViT-B/16's shape. Source: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words."""

import dataclasses
from collections.abc import Iterator

import torch
from _agreement import labelled, remembered
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Split, Task

PATCH = 16
SPREAD = 0.05
"""Standard deviation of weights: with the usual 0.02 all random images look alike."""


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a norm and added."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (batch, tokens, width)."""
        seen = self.first(x)
        q, k, v = (
            layer(seen).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Network(nn.Module):
    """Patches with places, blocks, and a classifier of the class token."""

    def __init__(
        self, width: int, heads: int, hidden: int, blocks: int, side: int, classes: int
    ) -> None:
        super().__init__()
        tokens = (side // PATCH) ** 2
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.empty(1, tokens + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, classes) of images."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        token = self.token.expand(len(x), -1, -1)
        tokens = torch.cat([token, patches], 1) + self.places
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer(Task):
    """Random square images with the classes that the network gives them."""

    width: int = 768
    heads: int = 12
    hidden: int = 3072
    blocks: int = 12
    side: int = 224
    classes: int = 1000

    def model(self) -> nn.Module:
        """Return the network with the same random weights at every call."""
        return remembered(self._name(), self._network)

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (batch, 3, side, side) with classes."""
        shape = (3, self.side, self.side)
        yield from labelled(self._name(), self.model, shape, split, batch_size)

    def describe(self) -> dict[str, str]:
        """Return the name and the sizes."""
        return {"name": "vit", **{k: str(v) for k, v in dataclasses.asdict(self).items()}}

    def _network(self) -> nn.Module:
        return Network(*dataclasses.asdict(self).values())

    def _name(self) -> str:
        return "-".join(["vit", *(str(v) for v in dataclasses.asdict(self).values())])


def model() -> nn.Module:
    """Return the network of the default sizes."""
    return Transformer().model()


def batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of the default sizes."""
    yield from Transformer().batches(split, batch_size)
