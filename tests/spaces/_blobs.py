"""Small tasks that other processes can import by name, and what tests do with models."""

import contextlib
import copy
import dataclasses
import os
import signal
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Recovery, Split, Task
from spaces.constraint import Constraint, Project
from spaces.training.recovery import recover

CLASSES = 4


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points (count, 8) around four centres, and the index of the centre."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(CLASSES, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return centres[labels] + torch.randn(count, 8, generator=generator), labels


def clusters(
    split: Split, batch_size: int, *, count: int, classes: int, width: int, apart: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches of `count` points (width,) around centres, the same ones each time."""
    generator = torch.Generator().manual_seed(1 if split == "train" else 2)
    centres = apart * torch.randn(classes, width, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, classes, (count,), generator=generator)
    points = centres[labels] + torch.randn(count, width, generator=generator)
    for rows in torch.randperm(count, generator=generator).split(batch_size):
        yield points[rows], labels[rows]


def train(task: Task, recovery: Recovery, model: nn.Module | None = None) -> nn.Module:
    """Return `model`, or the task's, trained in place with the task's own as its teacher."""
    model, teacher = model or task.model(), task.model().eval()
    return recover(model, teacher, task, recovery, seed=0, progress=lambda *step: None)


@dataclasses.dataclass(frozen=True)
class Images(Task):
    """A convolutional network with batch normalisation; batches are shuffled at random."""

    samples: int = 150

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 6, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 2),
            nn.BatchNorm2d(8, affine=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8, CLASSES),
        ).eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        x, y = blobs(self.samples, seed=1 if split == "train" else 2)
        for rows in torch.randperm(self.samples).split(batch_size):
            yield x[rows].view(-1, 2, 2, 2), y[rows]

    def describe(self) -> dict[str, str]:
        return {"name": "images"}


class Block(nn.Module):
    """A residual block; its inner width can be pruned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Residual(nn.Module):
    """Takes and returns dicts; `spare` is never used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(3)])
        self.head = nn.Linear(width, CLASSES)
        self.spare = nn.Linear(3, 3)

    def forward(self, points: Tensor, scale: Tensor) -> dict[str, Tensor]:
        x = self.embed(points * scale)
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(x), "hidden": x}


@dataclasses.dataclass(frozen=True)
class Dicts(Task):
    """Dict inputs, one of them the same for all samples, dict targets."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Residual(16).eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        x, y = blobs(130, seed=1 if split == "train" else 2)
        for rows in torch.randperm(130).split(batch_size):
            yield {"points": x[rows], "scale": torch.ones(1, 8)}, {"label": y[rows]}

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return F.cross_entropy(outputs["logits"], targets["label"])

    def describe(self) -> dict[str, str]:
        return {"name": "dicts"}


@dataclasses.dataclass(frozen=True)
class Failing(Images):
    """The second process does something at its third loss."""

    deed: str = "die"
    folder: str = ""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        if dist.is_initialized() and dist.get_rank() == 1 and outputs.requires_grad:
            if self.deed == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.deed == "raise":
                raise KeyError("no such label")
            if self.deed == "diverge":
                return super().loss(outputs, targets) * float("nan")
        return super().loss(outputs, targets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked(Constraint):
    """Keeps the smaller half of every matrix and kernel at zero."""

    names: tuple[str, ...] = ()

    @contextlib.contextmanager
    def hold(self, model: nn.Module, task: Task) -> Iterator[Project]:
        del task
        held = [(p, p.abs() > p.abs().median()) for p in model.parameters() if p.dim() > 1]

        def project() -> None:
            with torch.no_grad():
                for parameter, mask in held:
                    parameter.mul_(mask)

        project()
        yield project


def damaged(model: nn.Module) -> nn.Module:
    """A copy with noise on its weights."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += (
                0.5
                * parameter.std()
                * torch.randn(parameter.shape, generator=generator).to(parameter.device)
            )
    return model
