"""Tensor parallelism: each process has a share of the units, and adds its part to what reads them.

Units are hidden neurons, attention heads and inner channels: whatever structured pruning could
remove. A process removes the others' units; the layers that read the units then compute one term of
a sum, which one all-reduce completes. What the units are computed from, the residual stream, is
the same in all processes. Source: Shoeybi et al. 2019, Megatron-LM, section 3, where the units
of two kinds of layers are known beforehand; here they are found by tracing.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from objectives.exporting import Replayed, torch_modules
from objectives.placement.job import Job
from objectives.placement.replicas import Share, gather
from spaces import Infeasible
from spaces.devices import device_of
from spaces.modules import Convolution, call, flatten, plain, unflatten
from spaces.modules.structure import Coupled, Family, Removal, Snapshot, attempt, coupling, matrices

TOLERANCE = 1e-4
"""Largest difference from the whole model, relative to its largest output, in float32."""

_MIXING = (nn.LayerNorm, nn.GroupNorm)
"""What such layers compute for a unit depends on the others' units."""


class Tensors(Share):
    """A share of every layer that can be split."""

    tolerance = TOLERANCE

    def __init__(self, job: Job, rank: int, count: int, device: torch.device) -> None:
        self._rank, self._device, self._kind = rank, device, device_of(device)
        self._timer = self._kind.timer()
        self._structure = job.signature.inputs
        self._dtype = torch_modules.dtype_of(job.notes["dtype"])
        self._model = job.runtime.module(job.folder, job.task, job.notes).float().eval()
        self._example = [torch_modules.cast(t, torch.float32) for t in job.example(2)]
        self._batch = job.example(job.target.batch_size)
        with torch.inference_mode():
            self._expected = self._outputs(self._example)
        inputs = plain(unflatten(self._example, self._structure))
        families = split(self._model, inputs, rank, count)
        self._forward = Replayed(self._together, device)
        self.said = f"{len(families)} sets of layers split: {', '.join(f.name for f in families)}"

    def verify(self) -> float:
        """Return the largest difference from the whole model; then make ready for batches."""
        with torch.inference_mode():
            found = self._outputs(self._example)
        pairs = list(zip(found, self._expected, strict=True))
        scale = max(float(b.abs().max()) for _, b in pairs) or 1.0
        worst = max(float((a.double() - b.double()).abs().max()) for a, b in pairs) / scale
        del self._expected, self._example
        _settled(self._model, self._device, self._dtype)
        self._forward.record(self.feed(self._batch))
        self.said += f"; {self._forward.execution}" * bool(self._forward.execution)
        return worst

    def feed(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the inputs on the device."""
        return [torch_modules.cast(t, self._dtype).to(self._device).contiguous() for t in tensors]

    def run(self, feed: list[Tensor]) -> list[Tensor]:
        """Get the inputs from the first process, and compute together."""
        return self._forward(feed)

    def read(self, raw: list[Tensor]) -> list[Tensor]:
        """Return the outputs, which every process has, from the first one."""
        return [torch_modules.owned(t).cpu() for t in raw] if self._rank == 0 else []

    def settle(self) -> None:
        """Wait for the others."""
        self.finish()
        gather(self._rank)

    def timed(self, feed: list[Tensor]) -> tuple[float, float]:
        """Return when a batch was begun and done here, the time between by the device's clock."""
        self.settle()
        start = time.monotonic()
        return start, start + self._timer(functools.partial(self.run, feed))

    def finish(self) -> None:
        """Wait for the device."""
        self._kind.synchronize()

    def _together(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
        return self._outputs(tensors)

    def _outputs(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return flatten(call(self._model, plain(unflatten(tensors, self._structure))))[0]


def _settled(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Give every tensor memory of its own on the device: nothing of the whole model stays."""
    model.requires_grad_(False)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = torch_modules.cast(tensor.data, dtype).to(device, copy=True)


def split(model: nn.Module, inputs: Any, rank: int, count: int) -> list[Family]:
    """Leave in `model` the share of process `rank` of `count`; return what was split.

    `model` is in float32. Every process chooses the same layers: what can be split is tried with
    the first process' share. Raises Infeasible when nothing can be split.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with torch.enable_grad():
        coupled = coupling.find(model, inputs)
    families = _chosen(_workable(model, inputs, coupled, count), _operations(model, inputs))
    if not families:
        raise Infeasible(
            "tensor parallelism has nothing to split: no layer of the model has hidden neurons, "
            f"heads or inner channels for {count} devices that other layers read directly"
        )
    reason = attempt(model, inputs, [_others(f, rank, count) for f in families])
    if reason is not None:
        raise Infeasible(f"the model does not work when its layers are split: {reason}")
    for reader in {id(r): r for f in families for r in _readers(f)}.values():
        if rank > 0 and reader.bias is not None:
            reader.bias = nn.Parameter(torch.zeros_like(reader.bias))  # counted once
        reader.register_forward_hook(_summed)
    return families


def _summed(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    del module, inputs
    output = output.contiguous()
    dist.all_reduce(output)
    return output


def _others(family: Family, rank: int, count: int) -> Removal:
    """Return the units that process `rank` does not keep."""
    parts = torch.arange(family.units).tensor_split(count)
    kept = set(parts[rank].tolist())
    return Removal(family=family, units=tuple(i for i in range(family.units) if i not in kept))


def _workable(
    model: nn.Module, inputs: Any, coupled: Sequence[Coupled], count: int
) -> list[Family]:
    """Return each coupled set in the first way in which it can be split."""
    options = [[w for w in group.ways if _divides(w, count)] for group in coupled]
    return _tried(model, inputs, [ways for ways in options if ways], count)


def _tried(
    model: nn.Module, inputs: Any, options: Sequence[Sequence[Family]], count: int
) -> list[Family]:
    """Return the sets that work: all at once where they do, else by halves, else way by way.

    A try is two passes of the model, and large models have hundreds of sets.
    """
    if not options:
        return []
    whole = Snapshot(model)
    first = [ways[0] for ways in options]
    for choice in [first] if len(options) > 1 else [[way] for way in options[0]]:
        reason = attempt(model, inputs, [_others(way, 0, count) for way in choice])
        whole.restore()
        if reason is None:
            return choice
    if len(options) == 1:
        return []
    middle = len(options) // 2
    halves = options[:middle], options[middle:]
    return [way for half in halves for way in _tried(model, inputs, half, count)]


def _divides(family: Family, count: int) -> bool:
    """Whether every process gets units, computes them alone, and all that reads them can add up."""
    alone = not any(isinstance(m.module, _MIXING) for m in family.members)
    readers = [m for m in family.members if m.side == "in"]
    complete = all(bool((m.unit >= 0).all()) for m in readers)
    return family.units >= count and alone and complete and bool(_readers(family))


def _readers(family: Family) -> list[Any]:
    """Return the layers whose outputs are sums over the units."""
    found: list[Any] = []
    for member in family.members:
        if isinstance(member.module, nn.MultiheadAttention):
            found.append(member.module.out_proj)
        elif member.side == "in":
            found.append(member.module)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sides:
    """The layers that a family splits by their outputs, and by their inputs."""

    written: set[int]
    read: set[int]

    def clashes(self, other: "_Sides") -> bool:
        """Whether a layer would be split both ways: each process would lack a term."""
        return bool(self.written & other.read or self.read & other.written)


def _chosen(families: Sequence[Family], operations: dict[int, float]) -> list[Family]:
    """Return families that can be split at once, of two sets the one with more operations.

    A layer is split either by its outputs or by its inputs: in a chain of layers, every second
    set of hidden neurons. Tried are the sets in the model's order, and the largest first.
    """
    sides = [_sides(f) for f in families]
    weights = [sum(operations.get(i, 0.0) for i in s.written | s.read) for s in sides]
    by_weight = sorted(range(len(families)), key=lambda i: -weights[i])
    best: list[int] = []
    for order in (range(len(families)), by_weight):
        taken: list[int] = []
        for i in order:
            if sides[i].read and not any(sides[i].clashes(sides[j]) for j in taken):
                taken.append(i)
        best = max(best, taken, key=lambda some: (sum(weights[i] for i in some), len(some)))
    return [families[i] for i in sorted(best)]


def _sides(family: Family) -> _Sides:
    written = {id(m.module) for m in family.members if m.side != "in"}
    return _Sides(written=written, read={id(r) for r in _readers(family)})


def _operations(model: nn.Module, inputs: Any) -> dict[int, float]:
    """Return the multiplications of each layer with a matrix, by the layer's id."""
    found: dict[int, float] = {}

    def count(module: Any, _: Any, output: Any) -> None:
        weight = matrices.weight(module) if matrices.linear(module) else module.weight
        found[id(module)] = weight.numel() * output.numel() / weight.shape[0]

    kinds = nn.Linear | Convolution
    layers = [m for m in model.modules() if isinstance(m, kinds) or matrices.transposed(m)]
    hooks = [m.register_forward_hook(count) for m in layers]
    try:
        with torch.no_grad():
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            found[id(module)] = 4.0 * module.embed_dim**2
    return found
