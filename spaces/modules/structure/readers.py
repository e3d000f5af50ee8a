"""Statistics of the inputs of layers that read removable channels, from training samples."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.memory import FORGETFUL, Memory
from spaces.modules.module_tables import own_parameters
from spaces.modules.seeding import seeded
from spaces.modules.structure.matrices import bias, linear, weight
from spaces.modules.trees import call, length, plain, rows, transform
from spaces.task import Task

SAMPLES = 256
"""Training samples from which statistics are taken."""
BATCH = 32
"""Samples of one forward pass."""
ROWS = 8192
"""Places of a layer that are sampled, over all samples; more if a layer reads more values."""
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


def observe(
    model: nn.Module, task: Task, names: Iterable[str], memory: Memory = FORGETFUL
) -> dict[str, Reader]:
    """Return the statistics of the readable layers among `names`, from training samples.

    `model` is in evaluation mode. Layers that it does not use are left out.
    """
    readers = {n: _empty(model.get_submodule(n)) for n in names if readable(model.get_submodule(n))}
    generator = torch.Generator().manual_seed(0)
    current: dict[str, Any] = {}
    hooks = [
        r.module.register_forward_hook(_watch(r, generator, current)) for r in readers.values()
    ]
    try:
        with torch.no_grad():
            for inputs in kept(task, memory):
                current["inputs"] = inputs
                call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for reader in readers.values():
        reader.power /= max(reader.places, 1)
        for moments in reader.moments:
            moments /= max(reader.places, 1)
    return {name: reader for name, reader in readers.items() if reader.places}


def batches(task: Task, samples: int = SAMPLES) -> Iterator[Any]:
    """Yield the inputs of the first training samples in small batches, the same at every call."""
    with seeded(0):
        count = 0
        for inputs, _ in task.batches("train", samples):
            for start in range(0, min(length(inputs), samples - count), BATCH):
                yield plain(rows(inputs, slice(start, min(start + BATCH, samples - count))))
            count += length(inputs)
            if count >= samples:
                return


def kept(task: Task, memory: Memory) -> list[Any]:
    """Return the batches of `batches`, which `memory` keeps."""
    inputs: list[Any] = memory.remembered(
        "inputs", {"samples": SAMPLES, "batch": BATCH}, lambda: list(batches(task))
    )
    return inputs


def example(task: Task, memory: Memory) -> Any:
    """Return the inputs of two validation samples, with which a model is traced."""

    def first() -> Any:
        inputs, _ = next(iter(task.batches("validation", 2)))
        return transform(inputs, lambda tensor: tensor)

    return memory.remembered("example", {"samples": 2}, first)


def pick(
    module: nn.Module, output: Tensor, generator: torch.Generator, inputs: Any = None
) -> tuple[Tensor, ...]:
    """Sample places of a layer's output: indices of all its dimensions except the channels.

    Tokens that the model's `inputs` mark as padding are left out: their results are not used, and
    in sentences padded to one length they are the majority.
    """
    shape = _place_shape(module, output.shape)
    columns = min(WIDEST, weight(module)[0].numel())
    limit = max(ROWS, PLACES_PER_COLUMN * columns) * BATCH // SAMPLES
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


def _empty(module: nn.Module) -> Reader:
    values = weight(module)
    device, columns = values.device, values[0].numel()
    parts = [part.to(device) for part in _parts(columns, values[0, 0].numel())]
    if bias(module) is not None:
        parts = [torch.cat([part, part.new_tensor([columns])]) for part in parts]
    moments = [values.new_zeros(len(p), len(p), dtype=torch.float64) for p in parts]
    return Reader(module=module, parts=parts, moments=moments)


def _parts(columns: int, kernel: int) -> list[Tensor]:
    """Divide columns into parts of at most WIDEST, of whole channels and, if possible, heads."""
    aligned = kernel * ALIGNED
    step = WIDEST // aligned * aligned or max(WIDEST // kernel, 1) * kernel
    step = columns if columns <= WIDEST else step
    starts = range(0, columns, step)
    return [torch.arange(start, min(start + step, columns)) for start in starts]


def _watch(
    reader: Reader, generator: torch.Generator, current: Mapping[str, Any]
) -> Callable[..., None]:
    """Return a hook that adds a call to the layer's statistics."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        places = pick(module, output, generator, current["inputs"])
        values = read(module, args[0], places)
        for part, moments in zip(reader.parts, reader.moments, strict=True):
            block = values if len(reader.parts) == 1 else values[:, part]
            moments += (block.T @ block).double()
        reader.power += float(written(module, output, places).double().square().sum())
        reader.places += len(values)

    return hook


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
