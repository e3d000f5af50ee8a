"""Two decoder blocks of width 4096, as in language models, on 32 tokens."""

from collections.abc import Iterator

from _agreement import labelled, remembered
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, HIDDEN, BLOCKS, TOKENS, CLASSES = 4096, 32, 11008, 2, 32, 1000


class Block(nn.Module):
    """Causal attention and a gated feed-forward layer, each after a norm and added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.value, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (batch, tokens, width)."""
        seen = self.first(x)
        q, k, v = (
            layer(seen).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        seen = self.second(x)
        return x + self.down(F.silu(self.gate(seen)) * self.up(seen))


class Decoder(nn.Module):
    """Blocks and a classifier of the last token."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, classes) of embedded tokens (batch, tokens, width)."""
        return self.head(self.blocks(x)[:, -1])


def model() -> nn.Module:
    """Return the network with the same random weights at every call."""
    return remembered("decoder", Decoder)


def batches(split: str, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield random tokens with the classes that the network gives them."""
    yield from labelled("decoder", model, (TOKENS, WIDTH), split, batch_size)
