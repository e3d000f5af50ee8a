"""A small task, and exporting it: shared by the tests of the runtimes that call PyTorch."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from objectives import Export, Program, Runtime, Signature, Target
from objectives.artifacts import described, work_of
from spaces import Encoding, Split, Task
from spaces.modules.trees import call, flatten, names

ROOT = Path(__file__).parents[2]
INTEGERS = Encoding(weight_bits=8, activation_bits=8)


class Mixed(nn.Module):
    """{"a": (batch, 16) floats, "b": (batch, 16) integers 0..4} -> {"logits", "mean"}."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 32)
        self.first = nn.Linear(16, 32)
        self.last = nn.Linear(32, 6)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.first(a) + self.table(b).mean(1))
        return {"logits": self.last(hidden), "mean": hidden.mean(1)}


class Images(nn.Module):
    """(batch, 3, 12, 12) -> (batch, 6), with a normalised and a residual convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Linear(16, 6)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.first(images)))
        return self.last((hidden + torch.relu(self.second(hidden))).mean((2, 3)))


class Tiny(Task):
    """Random inputs of a model with random but always equal weights."""

    def __init__(self, kind: type[nn.Module]) -> None:
        self.kind = kind

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return self.kind().eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
        generator = torch.Generator().manual_seed(len(split))
        for _ in range(24):
            yield self._inputs(batch_size, generator), torch.zeros(batch_size)

    def describe(self) -> dict[str, str]:
        return {"name": self.kind.__name__}

    def _inputs(self, count: int, generator: torch.Generator) -> Any:
        if self.kind is Mixed:
            floats = torch.randn(count, 16, generator=generator)
            return {"a": floats, "b": torch.randint(0, 5, (count, 16), generator=generator)}
        # as decoded images arrive: channels innermost in memory
        return torch.randn(count, 12, 12, 3, generator=generator).permute(0, 3, 1, 2)


def signature(model: nn.Module, example: Any) -> Signature:
    """Return what the search would note of a model and its inputs."""
    tensors, inputs = flatten(example)
    with torch.no_grad():
        results, outputs = flatten(call(model, example))
    return Signature(
        inputs=inputs,
        input_names=tuple(names(inputs)),
        input_shapes=tuple(tuple(t.shape) for t in tensors),
        input_types=tuple(str(t.dtype).removeprefix("torch.") for t in tensors),
        outputs=outputs,
        output_names=tuple(names(outputs)),
        output_shapes=tuple(tuple(t.shape) for t in results),
    )


def asked(task: Task, folder: Path, encoding: Encoding, target: Target) -> Export:
    """Return what a runtime needs to write the task's unedited model."""
    model = task.model()
    batches = [inputs for inputs, _ in task.batches("train", target.batch_size)]
    signature, operations = described(model, batches[0], target)
    return Export(
        model=model,
        reference=task.model(),
        example=batches[0],
        signature=signature,
        encoding=encoding,
        calibration=batches if encoding.activation_bits < 32 else [],
        target=target,
        folder=folder,
        operations=operations,
    )


def ship(
    runtime: Runtime,
    task: Task,
    folder: Path,
    encoding: Encoding | None = None,
    target: Target | None = None,
) -> Program:
    """Export a task's unedited model into a new folder and load it again."""
    folder.mkdir()
    export = asked(task, folder, encoding or Encoding(), target or Target())
    notes = runtime.export(export)
    program = runtime.load(folder, export.signature, export.target, task, notes)
    program.work = work_of(export)
    return program


def truth(task: Task, count: int) -> tuple[Any, Any]:
    """Return inputs of `count` samples and the unedited model's outputs."""
    inputs = next(iter(task.batches("validation", count)))[0]
    with torch.no_grad():
        return inputs, call(task.model(), inputs)


def size(folder: Path) -> int:
    """Return the bytes of an artifact."""
    return sum(file.stat().st_size for file in folder.iterdir())


ELSEWHERE = """
import sys, json, torch
sys.path[:0] = json.loads(sys.argv[1])
import importlib
from pathlib import Path
from objectives import Target
from _runtimes import {kind}, Tiny, signature, truth
module = importlib.import_module("objectives.runtimes.{module}")
task = Tiny({kind})
example = next(iter(task.batches("train", 2)))[0]
program = module.{name}().load(
    Path(sys.argv[2]), signature(task.model(), example), Target(batch_size=2), task,
    json.loads(sys.argv[3]),
)
inputs, expected = truth(task, 5)
error = (program(inputs) - expected).abs().max().item()
print(json.dumps({{"error": error, "threads": torch.get_num_threads()}}))
"""


def elsewhere(runtime: Runtime, kind: type[nn.Module], *arguments: str) -> str:
    """Return what a fresh process prints that loads an artifact of batch size 2."""
    name = type(runtime).__name__
    code = ELSEWHERE.format(kind=kind.__name__, name=name, module=name.lower())
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
