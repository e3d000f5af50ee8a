"""A convolutional network and a transformer small enough to export in a test, and their data."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives import Export, Target
from objectives.artifacts import signature_of
from spaces import Encoding
from spaces.modules.trees import rows


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 64, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        return cast(Tensor, self.head(x.mean((2, 3))))


class Transformer(nn.Module):
    """Returns a dict, as the models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 64)
        self.query, self.key, self.value = (nn.Linear(64, 64) for _ in range(3))
        self.norm = nn.LayerNorm(64)
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)
        self.head = nn.Linear(64, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.embedding(input_ids)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 8
        scores = scores.masked_fill(attention_mask[:, None] == 0, -1e9)
        x = self.norm(x + scores.softmax(-1) @ self.value(x))
        x = x + self.down(F.gelu(self.up(x)))
        weight = attention_mask[..., None].float()
        pooled = (x * weight).sum(1) / weight.sum(1)
        return {"logits": self.head(pooled), "pooled": pooled}


class Wide(nn.Module):
    """One wide layer between two that keep 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Linear(16, 512), nn.Linear(512, 512)
        self.last = nn.Linear(512, 4)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(torch.relu(self.wide(torch.relu(self.first(x))))))


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def sentences(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(3, 13, (count, 1), generator=generator)
    return {
        "input_ids": torch.randint(0, 100, (count, 12), generator=generator),
        "attention_mask": (torch.arange(12) < lengths).long(),
    }


def built(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def request(model: nn.Module, inputs: Any, folder: Path, batch: int = 1, **bits: Any) -> Export:
    target = Target(batch_size=batch)
    example = rows(inputs, slice(0, batch))
    pieces = [rows(inputs, slice(i, i + batch)) for i in range(0, 16, batch)]
    return Export(
        model=model,
        reference=model,
        example=example,
        signature=signature_of(model, example, target),
        encoding=Encoding(**bits),
        calibration=pieces if bits.get("activation_bits", 32) < 32 else (),
        target=target,
        folder=folder,
    )


def decibels(wanted: Tensor, got: Tensor) -> float:
    """Return the signal to quantization noise ratio."""
    return float(10 * torch.log10(wanted.square().sum() / (wanted - got).square().sum()))


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
