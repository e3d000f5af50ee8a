"""Statistics of the inputs of layers that read removable channels, from training samples."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from spaces.memory import FORGETFUL, Memory
from spaces.modules import samples
from spaces.modules.module_tables import own_parameters
from spaces.modules.structure.matrices import bias, linear, weight
from spaces.modules.trees import length
from spaces.task import Task

ROWS = 8192
"""Places of a layer that are sampled, over all samples; more if a layer reads more values, fewer if
there are fewer samples."""
PLACES_PER_COLUMN = 4
"""Places for each value that a layer reads, if there are so many."""
WIDEST = 2048
"""Largest number of columns whose moments are computed together. The columns of a wider layer are
divided into blocks with zero moments between them, since inversion takes cubic time."""
ALIGNED = 128
"""Parts of a wide layer have a multiple of this many channels, so that a head lies in one part."""


@dataclasses.dataclass(kw_only=True, eq=False)
class Reader:
    """Statistics, over places, of a layer that multiplies its input by a matrix.

    A place is a token of a linear layer, or a position of a kernel. Columns are the values read
    there, channel by channel (channels x kernel), then a constant one if there is a bias.
    """

    module: nn.Module
    parts: list[Tensor]
    """Columns whose moments are computed together, ascending; all parts have the constant."""
    moments: list[Tensor]
    """Mean outer product of each part's columns, (columns, columns), float64."""
    power: float = 0.0
    """Mean squared norm of the output at a place."""
    places: int = 0
    inverses: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    """Inverses of the damped moments, by the number of the part, once they are needed."""

    @property
    def kernel(self) -> int:
        """Number of columns of one channel."""
        return weight(self.module)[0, 0].numel()

    @property
    def taps(self) -> Tensor:
        """The columns of channel 0, (kernel,)."""
        return torch.arange(self.kernel, device=weight(self.module).device)

    @property
    def matrix(self) -> Tensor:
        """Weights and bias as one matrix, (outputs, columns), float64."""
        return matrix(self.module)

    def columns(self, channels: Tensor) -> Tensor:
        """Return the columns of `channels`, (channels x kernel,)."""
        return (channels[:, None] * self.kernel + self.taps).flatten()


def scarcity(columns: int, places: int) -> float:
    """Return the factor by which a ridge grows if there are few places for the columns, at least 1.

    With fewer than PLACES_PER_COLUMN, least squares fit the places and not what the layer reads. A
    ResNet-20 pruned by 0.2 from 8 samples keeps 0.810 of 0.887 with it and 0.502 without; from 256
    samples it is 1.
    """
    return max(1.0, PLACES_PER_COLUMN * columns / max(places, 1))


def ranges(columns: int) -> list[tuple[int, int]]:
    """Return the bounds of equal blocks of at most WIDEST columns, in order."""
    count = -(-columns // WIDEST)
    bounds = [round(i * columns / count) for i in range(count + 1)]
    return list(itertools.pairwise(bounds))


def readable(module: nn.Module) -> bool:
    """Return True if a layer's output is its input times one matrix, stored as its weight."""
    if linear(module):
        return True
    plain_forward = type(module).forward in (nn.Conv1d.forward, nn.Conv2d.forward)
    stored = isinstance(own_parameters(module).get("weight"), nn.Parameter)
    return plain_forward and stored and getattr(module, "groups", 1) == 1


class Observer(samples.Watcher):
    """Takes the statistics of layers that multiply their input by a matrix."""

    def __init__(
        self, model: nn.Module, names: Iterable[str], count: int, runs: Mapping[str, int]
    ) -> None:
        """Watch the readable layers among `names` over `count` samples.

        `runs` are the numbers of adjacent channels that must lie in one part; 1 if not given.
        """
        layers = {name: model.get_submodule(name) for name in names}
        self._readers = {n: _empty(m, runs.get(n, 1)) for n, m in layers.items() if readable(m)}
        self._count = count
        self._generator = torch.Generator().manual_seed(0)

    def hooks(self) -> list[RemovableHandle]:
        """Watch the layers' outputs."""
        return [r.module.register_forward_hook(self._hook(r)) for r in self._readers.values()]

    def observed(self) -> dict[str, Reader]:
        """Return the statistics; layers that the model did not use are left out."""
        for reader in self._readers.values():
            reader.power /= max(reader.places, 1)
            for moments in reader.moments:
                moments /= max(reader.places, 1)
        return {name: reader for name, reader in self._readers.items() if reader.places}

    def _hook(self, reader: Reader) -> Callable[..., None]:
        """Return a hook that adds a call to the layer's statistics."""

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            places = pick(module, output, self._generator, self.inputs, self._count)
            values = read(module, args[0], places)
            for part, moments in zip(reader.parts, reader.moments, strict=True):
                block = values if len(reader.parts) == 1 else values[:, part]
                moments += (block.T @ block).double()
            reader.power += float(written(module, output, places).double().square().sum())
            reader.places += len(values)

        return hook


def observe(
    model: nn.Module,
    task: Task,
    names: Iterable[str],
    memory: Memory = FORGETFUL,
    *,
    count: int | None = None,
    runs: Mapping[str, int] | None = None,
    beside: Sequence[samples.Watcher] = (),
) -> dict[str, Reader]:
    """Return the statistics of the readable layers among `names`, from training samples.

    `model` is in evaluation mode. Layers that it does not use are left out. `count` are the
    samples, as many as are affordable by default. `runs` are the numbers of adjacent channels that
    must lie in one part. The watchers `beside` watch the same pass.
    """
    if count is None:
        count = samples.count(model, task, memory)
    observer = Observer(model, names, count, runs or {})
    samples.run(model, samples.kept(task, memory, count), observer, *beside)
    return observer.observed()


def pick(
    module: nn.Module,
    output: Tensor,
    generator: torch.Generator,
    inputs: Any = None,
    count: int = samples.SAMPLES,
) -> tuple[Tensor, ...]:
    """Sample places of a layer's output: indices of all its dimensions except the channels.

    `count` is the number of samples of all batches, over which the places are distributed.

    Tokens that the model's `inputs` mark as padding are left out: their results are not used, and
    in sentences padded to one length they are the majority.
    """
    shape = _place_shape(module, output.shape)
    columns = min(WIDEST, weight(module)[0].numel())
    together = min(samples.BATCH if inputs is None else length(inputs), count)
    rows = ROWS * min(count, samples.SAMPLES) // samples.SAMPLES
    limit = max(rows, PLACES_PER_COLUMN * columns) * together // count
    total = math.prod(shape)
    flat = torch.arange(total)  # drawn on the CPU: the same places on every device
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if isinstance(mask, Tensor) and tuple(mask.shape) == shape:
        flat = mask.flatten().nonzero().flatten().cpu()
    if len(flat) > limit:
        flat = flat[torch.randperm(len(flat), generator=generator)[:limit]]
    return torch.unravel_index(flat.to(output.device), shape)


def read(module: nn.Module, inputs: Tensor, places: tuple[Tensor, ...]) -> Tensor:
    """Return the inputs of `module` at `places`, (places, columns), with ones for a bias."""
    if linear(module):
        values = inputs[places]
    else:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        values = _patches(module, inputs, places)
    values = values.float()
    if bias(module) is not None:
        values = torch.cat([values, values.new_ones(len(values), 1)], 1)
    return values


def written(module: nn.Module, output: Tensor, places: tuple[Tensor, ...]) -> Tensor:
    """Return a layer's output at `places`, (places, outputs)."""
    channels_last = output if linear(module) else output.movedim(1, -1)
    return channels_last[places].float()


def matrix(module: nn.Module) -> Tensor:
    """Return weights and bias of a readable layer as one matrix, (outputs, columns), float64."""
    values = weight(module).detach().double().flatten(1)
    shift = bias(module)
    return values if shift is None else torch.cat([values, shift.detach().double()[:, None]], 1)


def _empty(module: nn.Module, run: int) -> Reader:
    values = weight(module)
    device, columns = values.device, values[0].numel()
    parts = [part.to(device) for part in _parts(columns, values[0, 0].numel(), run)]
    if bias(module) is not None:
        parts = [torch.cat([part, part.new_tensor([columns])]) for part in parts]
    moments = [values.new_zeros(len(p), len(p), dtype=torch.float64) for p in parts]
    return Reader(module=module, parts=parts, moments=moments)


def _parts(columns: int, kernel: int, run: int) -> list[Tensor]:
    """Divide columns into parts of at most WIDEST, of whole channels and, if possible, heads.

    Runs of channels, such as the pixels of a flattened channel, stay together if possible.
    """
    aligned = kernel * (ALIGNED if ALIGNED % run == 0 else run)
    step = WIDEST // aligned * aligned or max(WIDEST // kernel, 1) * kernel
    step = columns if columns <= WIDEST else step
    starts = range(0, columns, step)
    return [torch.arange(start, min(start + step, columns)) for start in starts]


def _place_shape(module: nn.Module, shape: torch.Size) -> tuple[int, ...]:
    """Return the sizes of an output's dimensions, except the channels."""
    sizes = tuple(shape)
    return sizes[:-1] if linear(module) else (sizes[0], *sizes[2:])


def _patches(module: nn.Conv1d | nn.Conv2d, inputs: Tensor, places: tuple[Tensor, ...]) -> Tensor:
    """Return the values under the kernel at `places`, (places, channels x kernel)."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    # the padding that "same" stands for has no public name
    padded = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode)
    sample, *starts = places
    count, dims = len(sample), len(starts)
    index = [sample.view(-1, *[1] * dims)]
    for axis, start in enumerate(starts):
        taps = torch.arange(module.kernel_size[axis], device=start.device) * module.dilation[axis]
        at = start[:, None] * module.stride[axis] + taps
        index.append(at.view(count, *[-1 if d == axis else 1 for d in range(dims)]))
    # all channels of a position at once: several times faster than value by value
    values = padded.movedim(1, -1).contiguous()[tuple(index)]
    return values.movedim(-1, 1).flatten(1)
