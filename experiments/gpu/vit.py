"""A network of ViT-B/16's shape. Source: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words."""

from collections.abc import Iterator

import torch
from _agreement import labelled, remembered
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, HIDDEN, BLOCKS, PATCH, SHAPE, CLASSES = 768, 12, 3072, 12, 16, (3, 224, 224), 1000
SPREAD = 0.05
"""Standard deviation of weights: with the usual 0.02 all random images look alike."""


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a norm and added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (batch, tokens, width)."""
        seen = self.first(x)
        q, k, v = (
            layer(seen).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    """Patches with places, blocks, and a classifier of the class token."""

    def __init__(self) -> None:
        super().__init__()
        tokens = (SHAPE[1] // PATCH) * (SHAPE[2] // PATCH)
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.places = nn.Parameter(torch.empty(1, tokens + 1, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, classes) of images."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        token = self.token.expand(len(x), -1, -1)
        tokens = torch.cat([token, patches], 1) + self.places
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


def model() -> nn.Module:
    """Return the network with the same random weights at every call."""
    return remembered("vit", Transformer)


def batches(split: str, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield random images with the classes that the network gives them."""
    yield from labelled("vit", model, SHAPE, split, batch_size)
