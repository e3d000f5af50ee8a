"""Interfaces of runtimes, which export and load artifacts, and of programs, which run them."""

import abc
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from objectives.execution import Operation
from objectives.target import Target
from objectives.work import Work
from spaces import Encoding, Infeasible, Task
from spaces.devices import device_of
from spaces.modules import Codes, Operations, flatten, length, unflatten


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """Names, shapes and structure of an artifact's inputs and outputs at its batch size."""

    inputs: Any
    """Tree structure of the inputs, as `spaces.modules.flatten` returns it."""
    input_names: tuple[str, ...]
    """One ASCII identifier per input tensor, in order; also the names in ONNX files."""
    input_shapes: tuple[tuple[int, ...], ...]
    """Shape of each input, with the batch as dimension 0."""
    input_types: tuple[str, ...]
    """Torch dtype of each input, without the prefix: float32, int64."""
    outputs: Any
    """Tree structure of the outputs."""
    output_names: tuple[str, ...]
    output_shapes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Everything that a runtime needs to write an artifact."""

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
    """Codes that equal weights of `model` exactly, by parameter; set if the encoding asks for few
    bits."""
    operations: Operations | None = None
    """Operations of one batch of `example`; None if they were not counted."""


ROUNDS = 10
"""Parts of a stream of batches, each with a rate of its own."""


class Program(abc.ABC):
    """A loaded artifact. It is called like the user's model: same inputs, same outputs."""

    devices = 1
    """Number of devices that it runs on."""
    work: Work | None = None
    """Operations and bytes of one batch; None if they were not counted at the export."""

    def __init__(self, signature: Signature, target: Target, folder: Path) -> None:
        self.signature = signature
        self.target = target
        self.folder = folder

    @abc.abstractmethod
    def feed(self, tensors: list[Tensor]) -> Any:
        """Convert input tensors, a full batch in signature order, to the runtime's own form."""

    @abc.abstractmethod
    def run(self, feed: Any) -> Any:
        """Execute one batch and return the runtime's raw outputs. Only this method is timed."""

    @abc.abstractmethod
    def read(self, raw: Any) -> list[Tensor]:
        """Convert raw outputs to float32 (or integer) CPU tensors that own their memory."""

    def seconds(self, feed: Any) -> float:
        """Run one batch and return the seconds it takes."""
        start = time.perf_counter()
        self.run(feed)
        return time.perf_counter() - start

    def stream(self, feeds: Sequence[Any], seconds: float) -> list[float]:
        """Return ROUNDS rates in batches per second over all devices, in about `seconds` seconds.

        Batches follow one another without a pause, as in a service with a backlog of requests.
        """
        return [self._rate(feeds, seconds / ROUNDS) for _ in range(ROUNDS)]

    def _rate(self, feeds: Sequence[Any], seconds: float) -> float:
        elapsed, count = 0.0, 0
        end = time.perf_counter() + seconds
        while count == 0 or (time.perf_counter() < end and elapsed < seconds):
            elapsed += self.seconds(feeds[count % len(feeds)])
            count += 1
        return count / elapsed

    def memory(self, feeds: Sequence[Any]) -> int:
        """Run `feeds` and return the peak bytes that one device needs for the artifact.

        Raises ValueError unless the artifact was loaded in separate processes.
        """
        del feeds
        raise ValueError("memory is measured in a process of its own: load the artifact apart")

    def placement(self) -> dict[str, Any]:
        """Return device count, strategy and its reason as JSON; empty without device processes."""
        return {}

    def execution(self) -> str:
        """Describe a way of execution that is chosen at load; empty if there is no choice."""
        return ""

    def operations(self, feed: Any) -> tuple[Operation, ...] | None:
        """Run `feed` under the runtime's own profiler and return the operations that it executes.

        Each appears once, with the time of one run. None means that the runtime does not say, which
        is so for programs on several devices. The program may be used afterwards, but is not to be
        timed.
        """
        del feed
        return None

    def close(self) -> None:  # noqa: B027
        """End the processes of the program, if any; it cannot be used afterwards."""

    def __enter__(self) -> Self:
        """Return the program; the end of the block closes it."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the program."""
        self.close()

    def __call__(self, inputs: Any) -> Any:
        """Return the outputs for inputs of any number of samples.

        Artifacts have a fixed batch size: inputs are split, and a short last batch is padded with
        copies of its last sample, whose outputs are dropped.
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
    """Interface of a runtime, which exports and loads artifacts. An instance is one setting."""

    reads: ClassVar[frozenset[str]]
    """Fields of Encoding that the runtime applies or checks in `refuses`. An encoding that sets any
    other field is refused by `overlooks`, since the field would be ignored."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions, besides PyTorch, whose versions affect an artifact."""
    usual: ClassVar[bool] = True
    """True if it is searched when an experiment names no runtimes."""
    splits: ClassVar[bool] = False
    """True if `module` returns a model that can be split over devices."""
    devices: ClassVar[frozenset[str] | None] = None
    """Device types that it has code for; None for all that PyTorch computes on."""

    def refuses(self, encoding: Encoding, target: Target, kinds: frozenset[str]) -> str | None:
        """Reason, in one sentence, why `encoding` cannot be executed at `target`; None if it can.

        `kinds` are the class names of the model's layers, minor convolutions left out. Called
        before any time is spent on a point.
        """
        if self.devices is not None and target.device not in self.devices:
            name, known = type(self).__name__.lower(), " and ".join(sorted(self.devices))
            return f"{name} is run on {known} only, the target is {target.device}"
        return device_of(target.device).lacks() or self.lacks_kernels(encoding, target, kinds)

    @abc.abstractmethod
    def lacks_kernels(
        self, encoding: Encoding, target: Target, kinds: frozenset[str]
    ) -> str | None:
        """Reason why the target's device has no real kernels for `encoding`; None if it has.

        `refuses` calls this for devices that are present and that the runtime has code for.
        """

    @abc.abstractmethod
    def export(self, export: Export) -> dict[str, Any]:
        """Write the artifact's files into `export.folder` and return JSON notes for its manifest.

        Raises Infeasible with a reason if the model cannot be exported at this encoding.
        """

    @abc.abstractmethod
    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Load an artifact from its folder; `notes` are those that `export` returned."""

    def standalone(
        self, signature: Signature, target: Target, notes: Mapping[str, Any]
    ) -> str | None:
        """Return Python lines that load an artifact and run it once, by the runtime alone.

        They run in the artifact's folder, whose files are not coded, and leave arrays or tensors
        in `outputs`. None if the artifact takes more than the runtime.
        """
        del signature, target, notes
        return None

    def module(self, folder: Path, task: Task, notes: dict[str, Any]) -> nn.Module:
        """Return the artifact's module on the CPU in its floating-point type, ready to be split.

        Raises Infeasible if the runtime does not execute modules.
        """
        del folder, task, notes
        raise Infeasible(f"{type(self).__name__} does not execute modules that could be split")

    def overlooks(self, encoding: Encoding) -> str | None:
        """Reason why the runtime cannot apply every field of `encoding`; None if it can."""
        for field in dataclasses.fields(encoding):
            value = getattr(encoding, field.name)
            if field.name not in self.reads and value != field.default:
                name = type(self).__name__.lower()
                return f"the runtime {name} does not know {field.name} = {value!r} of an encoding"
        return None

    def dense(self, encoding: Encoding, target: Target) -> str | None:
        """Reason, in one sentence, why zero weights save no time; None if they do."""
        del encoding
        return (
            f"The runtime {type(self).__name__.lower()} has no kernels that skip zero weights on "
            f"{target.device}, so the latency is that of the dense model."
        )
