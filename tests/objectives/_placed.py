"""Small models of each kind, and their artifacts placed on two devices."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from objectives import Export, Program, Runtime, Target
from objectives.artifacts import load, signature_of, write
from objectives.runtimes.eager import Eager
from spaces import Encoding, Split, Task

TWO = {"count": 2, "strategy": "auto"}


class Perceptron(nn.Module):
    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.gelu(layer(x))
        return cast(Tensor, self.head(x))


class Block(nn.Module):
    """Tokens (batch, 6, 32) -> a dict, through attention and a hidden layer, both residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.heads = 4

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(batch, tokens, 3, self.heads, 8).unbind(2)
        context = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        x = x + self.out(context.transpose(1, 2).reshape(batch, tokens, -1))
        x = x + self.down(F.gelu(self.up(self.second(x))))
        return {"tokens": x, "pooled": x.mean(1)}


class Turned(Block):
    """The same through transformers' linear layers, as in GPT-2: weights are (inputs, outputs)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = Conv1D(96, 32), Conv1D(32, 32)
        self.up, self.down = Conv1D(64, 32), Conv1D(32, 64)
        for layer in (self.qkv, self.out, self.up, self.down):
            nn.init.normal_(layer.weight, std=0.2)
            nn.init.normal_(layer.bias)


class Convolutions(nn.Module):
    """Images (batch, 3, 12, 12) -> logits, through a residual block with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.inner, self.inner_norm = nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.outer, self.outer_norm = nn.Conv2d(24, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)
        for norm in (self.norm, self.inner_norm, self.outer_norm):
            nn.init.normal_(norm.weight, 1.0, 0.3)
            nn.init.normal_(norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        hidden = F.relu(self.inner_norm(self.inner(x)))
        x = F.relu(x + self.outer_norm(self.outer(hidden)))
        return cast(Tensor, self.head(x.mean((2, 3))))


class Mean(nn.Module):
    """Nothing that could be split, and hardly anything to be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(x))


SHAPES = {Perceptron: (96,), Block: (6, 32), Turned: (6, 32), Convolutions: (3, 12, 12), Mean: (8,)}


class Random(Task):
    """Random inputs of a model with random but always equal weights."""

    def __init__(self, kind: type[nn.Module], *arguments: int) -> None:
        self.kind, self.arguments = kind, arguments

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return self.kind(*self.arguments).eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(len(split))
        shape = (self.arguments[0],) if self.arguments else SHAPES[self.kind]
        for _ in range(2):
            yield torch.randn(batch_size, *shape, generator=generator), torch.zeros(batch_size)

    def describe(self) -> dict[str, str]:
        return {"name": self.kind.__name__}


def artifact(
    folder: Path,
    task: Task,
    placement: dict[str, Any],
    target: Target,
    runtime: Runtime,
    encoding: Encoding,
) -> Path:
    """Export a task's model with a placement in its manifest."""
    model, example = task.model(), next(iter(task.batches("validation", target.batch_size)))[0]
    export = Export(
        model=model,
        reference=task.model(),
        example=example,
        signature=signature_of(model, example, target),
        encoding=encoding,
        calibration=(),
        target=target,
        folder=folder,
    )
    write(folder, type(runtime).__name__.lower(), runtime, export, {"placement": placement})
    return folder


def shipped(
    folder: Path,
    task: Task,
    strategy: str,
    *,
    batch: int = 4,
    runtime: Runtime | None = None,
    encoding: Encoding | None = None,
    count: int = 2,
) -> Program:
    """Return a task's model, loaded on several devices."""
    runtime = runtime or Eager()
    placement = {"count": count, "strategy": strategy}
    target = Target(batch_size=batch)
    place = artifact(folder, task, placement, target, runtime, encoding or Encoding())
    return load(place, runtime, task)
