"""Job: an artifact with everything that a process needs to load it."""

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
    """An artifact with everything that a process needs to load it."""

    folder: Path
    runtime: Runtime
    task: Task
    signature: Signature
    target: Target
    notes: dict[str, Any]
    quantized: bool
    """True if layers are in 8 bits or codes; such layers are not split."""

    coded: bool = False
    """True if files were compressed by an entropy coder."""

    def load(self) -> Program:
        """Load the artifact by its runtime in this process, decompressed first if it is coded."""
        with decompressed_files(self.folder) if self.coded else nullcontext(self.folder) as folder:
            program = self.runtime.load(folder, self.signature, self.target, self.task, self.notes)
        program.folder = self.folder  # its files count as shipped: coded
        return program

    def example(self, samples: int) -> list[Tensor]:
        """Return input tensors of `samples` samples, the same in every process."""
        tensors, _ = flatten(next(iter(self.task.batches("validation", samples)))[0])
        index = torch.arange(samples) % tensors[0].shape[0]
        return [t[index].contiguous() for t in tensors]
