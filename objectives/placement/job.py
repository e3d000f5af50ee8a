"""What a process must know to load an artifact."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objectives.exporting import decompressed_files
from objectives.runtime import Program, Runtime, Signature
from objectives.target import Target
from spaces import Task
from spaces.modules import flatten


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """An artifact with all that is needed to load it."""

    folder: Path
    runtime: Runtime
    task: Task
    signature: Signature
    target: Target
    notes: dict[str, Any]
    quantized: bool
    """Whether any weight is an integer: such layers are not split."""

    coded: bool = False
    """Whether files were compressed by an entropy coder."""

    def load(self) -> Program:
        """Return the artifact, loaded by its runtime in this process, decoded where it is coded."""
        with decompressed_files(self.folder) if self.coded else nullcontext(self.folder) as place:
            program = self.runtime.load(place, self.signature, self.target, self.task, self.notes)
        program.folder = self.folder  # coded files are what is shipped
        return program

    def example(self, samples: int) -> list[Tensor]:
        """Return inputs of `samples` samples, the same ones in every process that asks."""
        tensors, _ = flatten(next(iter(self.task.batches("validation", samples)))[0])
        index = torch.arange(samples) % tensors[0].shape[0]
        return [t[index].contiguous() for t in tensors]
