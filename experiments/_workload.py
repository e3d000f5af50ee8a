"""A user's workload as its files say: task.py and the target of experiment.toml."""

import dataclasses
import importlib.util
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peers._plain import tensors
from torch import Tensor, nn

SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """A task and the target it is to be deployed on."""

    name: str
    task: Any
    """The module task.py."""
    threads: int
    batch_size: int

    def model(self) -> nn.Module:
        """Return the uncompressed model, ready for inference."""
        torch.manual_seed(SEED)
        model: nn.Module = self.task.model()
        return model.eval().requires_grad_(False)

    def calibration(self, samples: int) -> list[Any]:
        """Return inputs of full training batches that hold `samples` samples, always the same."""
        torch.manual_seed(SEED)
        found: list[Any] = []
        for inputs, _ in self.task.batches("train", self.batch_size):
            if len(tensors(inputs)[0]) == self.batch_size:
                found.append(inputs)
            if len(found) * self.batch_size >= samples:
                break
        return found

    def test(self) -> Iterator[tuple[Any, Any]]:
        """Yield (inputs, targets) of the test split."""
        yield from self.task.batches("test", self.batch_size)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the task's score of a whole split; top-1 where it has none."""
        own = getattr(self.task, "score", None)
        return float(own(outputs, targets) if own else top1(outputs, targets))


def top1(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of rows whose largest output is the target's, 0 to 1."""
    return (outputs.argmax(-1) == targets).float().mean().item()


def read(folder: Path) -> Workload:
    """Return the workload in `folder`.

    Raises ValueError when its target is not a CPU: the recipes compared here are for CPUs.
    """
    asked = tomllib.loads((folder / "experiment.toml").read_text())
    target = asked.get("target", {})
    if (device := target.get("device", "cpu")) != "cpu":
        raise ValueError(f"{folder}: the comparison is for CPUs, the target is {device!r}")
    return Workload(
        name=asked.get("name", folder.name),
        task=_module(folder / "task.py"),
        threads=target.get("threads", 1),
        batch_size=target.get("batch_size", 1),
    )


def _module(file: Path) -> Any:
    sys.path.insert(0, str(file.parent))  # task.py imports its neighbours
    spec = importlib.util.spec_from_file_location("user_task", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
