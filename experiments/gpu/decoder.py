"""Decoder blocks as in language models, on embedded tokens; by default two of width 4096."""

import dataclasses
from collections.abc import Iterator

from _agreement import labelled, remembered
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Split, Task


class Block(nn.Module):
    """Causal attention and a gated feed-forward layer, each after a norm and added."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (batch, tokens, width)."""
        seen = self.first(x)
        q, k, v = (
            layer(seen).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        seen = self.second(x)
        return x + self.down(F.silu(self.gate(seen)) * self.up(seen))


class Network(nn.Module):
    """Blocks and a classifier of the last token."""

    def __init__(self, width: int, heads: int, hidden: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(blocks)))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, classes) of embedded tokens (batch, tokens, width)."""
        return self.head(self.blocks(x)[:, -1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder(Task):
    """Random tokens with the classes that the network gives them; the last token is classified.

    Width 2048, 16 heads, 5504 hidden neurons and 30 blocks have 1.5 billion parameters.
    """

    width: int = 4096
    heads: int = 32
    hidden: int = 11008
    blocks: int = 2
    tokens: int = 32
    classes: int = 1000

    def model(self) -> nn.Module:
        """Return the network with the same random weights at every call."""
        return remembered(self._name(), self._network)

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield embedded tokens (batch, tokens, width) with classes."""
        shape = (self.tokens, self.width)
        yield from labelled(self._name(), self.model, shape, split, batch_size)

    def describe(self) -> dict[str, str]:
        """Return the name and the sizes."""
        return {"name": "decoder", **{k: str(v) for k, v in dataclasses.asdict(self).items()}}

    def _network(self) -> nn.Module:
        return Network(self.width, self.heads, self.hidden, self.blocks, self.classes)

    def _name(self) -> str:
        return "-".join(["decoder", *(str(v) for v in dataclasses.asdict(self).values())])


def model() -> nn.Module:
    """Return the network of the default sizes."""
    return Decoder().model()


def batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of the default sizes."""
    yield from Decoder().batches(split, batch_size)
