"""What executes an artifact: how it is exported, loaded and run. Knows nothing of objectives."""

import abc
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from objectives.target import Target
from spaces import Encoding, Infeasible, Task
from spaces.devices import device_of
from spaces.modules import Codes, flatten, length, unflatten


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """Names, shapes and structure of an artifact's inputs and outputs at its batch size."""

    inputs: Any
    """Structure of the inputs (spaces.modules.flatten)."""
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


ROUNDS = 10
"""Parts of a stream of batches whose rates are told apart."""


class Program(abc.ABC):
    """A loaded artifact. Calling it takes and returns what the user's model takes and returns."""

    devices = 1
    """How many devices it runs on."""

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

    def stream(self, feeds: Sequence[Any], seconds: float) -> list[float]:
        """Return ROUNDS rates in batches per second, over all devices, in about `seconds`.

        Batches follow one another without a pause, as in a service that always has a next one.
        """
        return [self._rate(feeds, seconds / ROUNDS) for _ in range(ROUNDS)]

    def _rate(self, feeds: Sequence[Any], seconds: float) -> float:
        taken, count = 0.0, 0
        end = time.perf_counter() + seconds
        while count == 0 or (time.perf_counter() < end and taken < seconds):
            taken += self.seconds(feeds[count % len(feeds)])
            count += 1
        return count / taken

    def memory(self, feeds: Sequence[Any]) -> int:
        """Return the most bytes that a device needs for the artifact while `feeds` are run.

        Raises ValueError unless the artifact was loaded in processes of its own.
        """
        del feeds
        raise ValueError("memory is measured in a process of its own: load the artifact apart")

    def placement(self) -> dict[str, Any]:
        """Return how the devices share the work and why, as JSON; nothing where there is one."""
        return {}

    def execution(self) -> str:
        """Return in words how it is executed where that is decided on loading; else nothing."""
        return ""

    def close(self) -> None:  # noqa: B027
        """End what runs on behalf of the program; it cannot be used afterwards."""

    def __enter__(self) -> Self:
        """Return the program, to be closed at the end of the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the program."""
        self.close()

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

    reads: ClassVar[frozenset[str]]
    """Fields of Encoding that `refuses`, `export` and `load` take into account, by refusing them or
    by doing what they ask; what else an encoding asks is refused, or it would not be applied."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions shape an artifact, besides PyTorch's."""
    usual: ClassVar[bool] = True
    """Whether it is searched where an experiment names no runtimes."""
    splits: ClassVar[bool] = False
    """Whether `module` returns a model that can be split over devices."""
    devices: ClassVar[frozenset[str] | None] = None
    """The devices that it has code for; None is any that PyTorch computes on."""

    def refuses(self, encoding: Encoding, target: Target, kinds: frozenset[str]) -> str | None:
        """Return in one sentence why `encoding` cannot be executed at `target`, None if it can.

        `kinds` are the class names of the layers that matter. Asked before anything is paid for.
        """
        if self.devices is not None and target.device not in self.devices:
            name, known = type(self).__name__.lower(), " and ".join(sorted(self.devices))
            return f"{name} is run on {known} only, the target is {target.device}"
        return device_of(target.device).lacks() or self.lacks_kernels(encoding, target, kinds)

    @abc.abstractmethod
    def lacks_kernels(
        self, encoding: Encoding, target: Target, kinds: frozenset[str]
    ) -> str | None:
        """Return why `encoding` has no real kernels on the target's device, None if it has.

        `refuses` asks this of devices that there are, and that the runtime has code for.
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

    def module(self, folder: Path, task: Task, notes: dict[str, Any]) -> nn.Module:
        """Return an artifact as a module on the CPU in its floating-point type, to be split.

        Raises Infeasible where the runtime executes something else than modules.
        """
        del folder, task, notes
        raise Infeasible(f"{type(self).__name__} does not execute modules that could be split")

    def overlooks(self, encoding: Encoding) -> str | None:
        """Return in one sentence what `encoding` asks that the runtime does not know; else None."""
        for field in dataclasses.fields(encoding):
            value = getattr(encoding, field.name)
            if field.name not in self.reads and value != field.default:
                name = type(self).__name__.lower()
                return f"the runtime {name} does not know {field.name} = {value!r} of an encoding"
        return None

    def dense(self, encoding: Encoding, target: Target) -> str | None:
        """Return in one sentence why weights that are zero take as long as others, None if not."""
        del encoding
        return (
            f"The runtime {type(self).__name__.lower()} has no kernels that skip zero weights on "
            f"{target.device}, so the latency is that of the dense model."
        )
