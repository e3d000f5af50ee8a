"""scikit-learn's bundled handwritten digits and a small network, trained on the spot."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Split, Task

STEPS = 100
BATCH = 64


class Network(nn.Module):
    """(batch, 1, 8, 8) pixels 0..1 -> (batch, 10) logits; 8 convolutions, two of them strided."""

    def __init__(self, width: int) -> None:
        super().__init__()
        plan = ((1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1))
        layers: list[nn.Module] = []
        channels = 1
        for factor, stride in plan:
            layers.append(nn.Conv2d(channels, width * factor, 3, stride, 1, bias=False))
            layers += [nn.BatchNorm2d(width * factor), nn.ReLU()]
            channels = width * factor
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Task):
    """1,797 images of 8 x 8 pixels (Alpaydin 1998): 1,077 train, 360 validation, 360 test."""

    width: int = 32
    """Channels of the first convolutions."""
    seed: int = 0
    cache: str = "~/.cache/paretune"
    """Folder for the trained weights, so that they are trained once."""

    def model(self) -> nn.Module:
        """Return the network, trained in a few seconds the first time and cached."""
        file = (
            Path(self.cache).expanduser() / f"digits-{self.width}-{self.seed}-{STEPS}.safetensors"
        )
        network = Network(self.width)
        if file.is_file():
            network.load_state_dict(load_file(file))
        else:
            self._train(network)
            _keep(network.state_dict(), file)
        return network.eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (batch, 1, 8, 8) and labels (batch,); "train" is shuffled and shifted."""
        images, labels = _arrays(Path(self.cache).expanduser())
        rows = {"train": slice(0, 1077), "validation": slice(1077, 1437), "test": slice(1437, 1797)}
        images, labels = images[rows[split]], labels[rows[split]]
        order = torch.randperm(len(labels)) if split == "train" else torch.arange(len(labels))
        for index in torch.split(order, batch_size):
            batch = images[index]
            if split == "train":
                top, left = torch.randint(0, 3, (2,)).tolist()
                batch = F.pad(batch, (1, 1, 1, 1))[:, :, top : top + 8, left : left + 8]
            yield batch, labels[index]

    def describe(self) -> dict[str, str]:
        """Return the name and the settings that change the result."""
        return {"name": "digits", "width": str(self.width), "seed": str(self.seed)}

    def _train(self, network: nn.Module) -> None:
        """Train from scratch with one-cycle AdamW; the caller's random state is kept.

        On one thread: how many add a sum up changes its rounding, and so the network.
        """
        threads = torch.get_num_threads()
        with torch.random.fork_rng(devices=[]), contextlib.ExitStack() as restored:
            restored.callback(torch.set_num_threads, threads)
            torch.set_num_threads(1)
            torch.manual_seed(self.seed)
            network.apply(_initialise)
            optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=STEPS)
            network.train()
            done = 0
            while done < STEPS:
                for images, labels in self.batches("train", BATCH):
                    if done == STEPS:
                        break
                    optimizer.zero_grad()
                    torch.autograd.backward(self.loss(network(images), labels))
                    optimizer.step()
                    schedule.step()
                    done += 1
        network.eval()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:  # drawn when the network was made, outside of the seed
            nn.init.zeros_(module.bias)


@functools.cache
def _arrays(folder: Path) -> tuple[Tensor, Tensor]:
    """Return all images (1797, 1, 8, 8) in 0..1 and labels (1797,) in a fixed shuffled order.

    They are kept in `folder`: importing scikit-learn takes two seconds, reading them none.
    """
    file = folder / "digits.safetensors"
    if not file.is_file():
        from sklearn.datasets import load_digits

        data = load_digits()
        images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
        _keep({"images": images, "labels": torch.from_numpy(data.target).long()}, file)
    kept = load_file(file)
    order = torch.randperm(len(kept["labels"]), generator=torch.Generator().manual_seed(0))
    return kept["images"][order], kept["labels"][order]


def _keep(tensors: dict[str, Tensor], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    save_file(tensors, draft)
    draft.replace(file)
