"""What executes an artifact: how it is exported, loaded and run. Knows nothing of objectives."""

import abc
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from objectives._target import Target
from spaces import Encoding, Task
from spaces._inputs import flatten, length, unflatten
from spaces.quantize._codes import Codes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """Names, shapes and structure of an artifact's inputs and outputs at its batch size."""

    inputs: Any
    """Structure of the inputs (spaces._inputs.flatten)."""
    input_names: tuple[str, ...]
    """One ASCII identifier per input tensor, in order; also the names in ONNX files."""
    input_shapes: tuple[tuple[int, ...], ...]
    """Shapes with the batch as dimension 0."""
    input_types: tuple[str, ...]
    """Torch dtypes without the prefix: float32, int64."""
    outputs: Any
    """Structure of the outputs."""
    output_names: tuple[str, ...]
    output_shapes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Everything a runtime needs to write an artifact."""

    model: nn.Module
    """The candidate in evaluation mode, float32, on the CPU; not to be edited."""
    reference: nn.Module
    """The user's unedited model; not to be edited."""
    example: Any
    """Inputs of one batch of the target's size, as the user gives them."""
    signature: Signature
    encoding: Encoding
    calibration: Sequence[Any]
    """Inputs of training batches of the target's size; empty unless activations are quantized."""
    target: Target
    folder: Path
    """An existing empty folder: every file written into it belongs to the artifact."""
    codes: Mapping[str, Codes] = dataclasses.field(default_factory=dict)
    """What weights of `model` are exactly, by parameter, where the encoding asks for few bits."""


class Program(abc.ABC):
    """A loaded artifact. Calling it takes and returns what the user's model takes and returns."""

    def __init__(self, signature: Signature, target: Target, folder: Path) -> None:
        self.signature = signature
        self.target = target
        self.folder = folder

    @abc.abstractmethod
    def feed(self, tensors: list[Tensor]) -> Any:
        """Return the input tensors (in signature order, full batch) in the runtime's own form."""

    @abc.abstractmethod
    def run(self, feed: Any) -> Any:
        """Execute one batch and return the runtime's raw outputs: the only thing that is timed."""

    @abc.abstractmethod
    def read(self, raw: Any) -> list[Tensor]:
        """Return raw outputs as float32 (or integer) CPU tensors that own their memory."""

    def seconds(self, feed: Any) -> float:
        """Return the seconds that one run takes."""
        start = time.perf_counter()
        self.run(feed)
        return time.perf_counter() - start

    def __call__(self, inputs: Any) -> Any:
        """Return the outputs for inputs of any number of samples.

        Artifacts have a fixed batch size: inputs are split, and a short last batch is filled
        up with copies of its last sample, whose outputs are dropped.
        """
        pieces = [self._batch(chunk) for chunk in _chunks(inputs, self.target.batch_size)]
        columns = zip(*pieces, strict=True)
        return unflatten([torch.cat(column) for column in columns], self.signature.outputs)

    def _batch(self, tensors: list[Tensor]) -> list[Tensor]:
        count, size = tensors[0].shape[0], self.target.batch_size
        if count < size:
            tensors = [torch.cat([t, t[-1:].expand(size - count, *t.shape[1:])]) for t in tensors]
        return [t[:count] for t in self.read(self.run(self.feed(tensors)))]


def _chunks(inputs: Any, size: int) -> Iterator[list[Tensor]]:
    tensors, _ = flatten(inputs)
    for start in range(0, length(inputs), size):
        yield [t[start : start + size].contiguous() for t in tensors]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime(abc.ABC):
    """How artifacts are exported and loaded; one instance is one way to do so."""

    @abc.abstractmethod
    def refuses(self, encoding: Encoding, target: Target, kinds: frozenset[str]) -> str | None:
        """Return in one sentence why `encoding` has no real kernels here, None if it has.

        `kinds` are the class names of the model's layers. Asked before anything is paid for.
        """

    @abc.abstractmethod
    def export(self, export: Export) -> dict[str, Any]:
        """Write the artifact's files into `export.folder`; return JSON notes for its manifest.

        Raises Infeasible with a reason when this model cannot be exported at this encoding.
        """

    @abc.abstractmethod
    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Load an artifact afresh; `notes` are those that `export` returned."""
