"""Tiny language models with weights as large as trained ones, and random token sequences."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from spaces import Split, Task

VOCABULARY, TOKENS = 50, 7


class Sentences(Task):
    """A model made by a function, on random token numbers (batch, TOKENS); targets are zeros."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.build = build

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(len(split))
        for rows in torch.randint(VOCABULARY, (64, TOKENS), generator=generator).split(batch_size):
            yield rows, torch.zeros(len(rows), dtype=torch.int64)

    def describe(self) -> dict[str, str]:
        return {"name": "sentences"}


class Logits(nn.Module):
    """Returns the logits (batch, tokens, classes) of a model of transformers alone."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.body(input_ids=ids).logits
        return logits


class OwnNorm(nn.Module):
    """As models bring their own: no module of torch; a scale of `shape` for its last dimensions."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


def outputs(model: nn.Module) -> Tensor:
    """Return what a model makes of four sentences that no task shows."""
    ids = torch.randint(VOCABULARY, (4, TOKENS), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        found: Tensor = model.eval()(ids)
    return found
