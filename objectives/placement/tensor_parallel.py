"""Tensor parallelism: each process computes a share of the units of every layer that can be split.

Units are hidden neurons, attention heads and inner channels: everything that structured pruning can
remove. A process removes the units of the other processes. The layers that read the units then
compute one term of a sum, which one all-reduce completes. The inputs of the units, the residual
stream, are the same in all processes. Source: Shoeybi et al. 2019, Megatron-LM, section 3, where
the units of two kinds of layers are known in advance; here they are found by tracing.
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
from objectives.placement.replicas import Share, wait_for_all
from spaces import Infeasible
from spaces.devices import HOST, device_of
from spaces.modules import Convolution, call, flatten, plain, unflatten
from spaces.modules.structure import Coupled, Family, Removal, Snapshot, attempt, coupling, matrices

TOLERANCE = 1e-4
"""Largest deviation from the whole model, relative to its largest output, in float32."""

ROOM = 4
"""Bytes for tracing per byte of weights: the weights, gradients, and copies without some units."""

_MIXING = (nn.LayerNorm, nn.GroupNorm)
"""Layers whose output for one unit depends on other units."""


class TensorParallel(Share):
    """A share of the units of every layer that can be split."""

    tolerance = TOLERANCE

    def __init__(self, job: Job, rank: int, count: int, device: torch.device) -> None:
        self._rank, self._device, self._kind = rank, device, device_of(device)
        self._timer = self._kind.timer()
        self._structure = job.signature.inputs
        self._dtype = torch_modules.dtype_of(job.notes["dtype"])
        self._model = job.runtime.module(job.folder, job.task, job.notes).float().eval()
        place = _place_to_split(self._model, device)
        self._model.to(place)
        self._example = [torch_modules.cast(t, torch.float32).to(place) for t in job.example(2)]
        self._batch = job.example(job.target.batch_size)
        with torch.inference_mode(), self._kind.exact():
            self._expected = self._outputs(self._example)
        inputs = plain(unflatten(self._example, self._structure))
        with self._kind.exact():
            families = split(self._model, inputs, rank, count)
        self._forward = Replayed(self._broadcast_and_run, device)
        self.detail = f"{len(families)} sets of layers split: {', '.join(f.name for f in families)}"

    def verify(self) -> float:
        """Return the largest deviation from the whole model; then prepare the share for batches.

        The share is moved to the device and recorded as a CUDA graph if possible.
        """
        with torch.inference_mode(), self._kind.exact():
            outputs = self._outputs(self._example)
        pairs = list(zip(outputs, self._expected, strict=True))
        scale = max(float(b.abs().max()) for _, b in pairs) or 1.0
        worst = max(float((a.double() - b.double()).abs().max()) for a, b in pairs) / scale
        del self._expected, self._example
        _move(self._model, self._device, self._dtype)
        self._forward.record(self.feed(self._batch))
        self.detail += f"; {self._forward.execution}" * bool(self._forward.execution)
        return worst

    def feed(self, tensors: list[Tensor]) -> list[Tensor]:
        """Copy the inputs to the device."""
        return [torch_modules.cast(t, self._dtype).to(self._device).contiguous() for t in tensors]

    def run(self, feed: list[Tensor]) -> list[Tensor]:
        """Receive the inputs from the first process and compute, together with the others."""
        return self._forward(feed)

    def read(self, raw: list[Tensor]) -> list[Tensor]:
        """Return the outputs in the first process; the others have the same and return nothing."""
        return [torch_modules.owned(t).cpu() for t in raw] if self._rank == 0 else []

    def settle(self) -> None:
        """Wait for the other processes."""
        self.finish()
        wait_for_all(self._rank)

    def timed(self, feed: list[Tensor]) -> tuple[float, float]:
        """Run a batch; return its start, and its end by the device's clock."""
        self.settle()
        start = time.monotonic()
        return start, start + self._timer(functools.partial(self.run, feed))

    def finish(self) -> None:
        """Wait for the device."""
        self._kind.synchronize()

    def _broadcast_and_run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
        return self._outputs(tensors)

    def _outputs(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return flatten(call(self._model, plain(unflatten(tensors, self._structure))))[0]


def _place_to_split(model: nn.Module, device: torch.device) -> torch.device:
    """Return `device` if it has room to trace the whole model, else the host.

    Tracing takes hundreds of backward passes, on a host's cores half a minute for a ViT-B/16.
    """
    free, _ = device_of(device).memory()
    needed = ROOM * sum(p.numel() * p.element_size() for p in model.parameters())
    return device if needed < free else HOST


def _move(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Copy every tensor to memory of its own on the device, to free that of the whole model."""
    model.requires_grad_(False)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = torch_modules.cast(tensor.data, dtype).to(device, copy=True)


def split(model: nn.Module, inputs: Any, rank: int, count: int) -> list[Family]:
    """Reduce `model`, in place, to the share of process `rank` of `count`; return the split sets.

    `model` is in float32. All processes choose the same sets, because each tries them with the
    share of the first process. Raises Infeasible if nothing can be split.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with torch.enable_grad():
        coupled = coupling.find(model, inputs)
    families = _compatible(_splittable(model, inputs, coupled, count), _operations(model, inputs))
    if not families:
        raise Infeasible(
            "tensor parallelism has nothing to split: no layer of the model has hidden neurons, "
            f"heads or inner channels for {count} devices that other layers read directly"
        )
    reason = attempt(model, inputs, [_removal_of_others(f, rank, count) for f in families])
    if reason is not None:
        raise Infeasible(f"the model does not work when its layers are split: {reason}")
    for reader in {id(r): r for f in families for r in _readers(f)}.values():
        if rank > 0 and reader.bias is not None:
            reader.bias = nn.Parameter(torch.zeros_like(reader.bias))  # the first process adds it
        reader.register_forward_hook(_all_reduce)
    return families


def _all_reduce(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    del module, inputs
    output = output.contiguous()
    dist.all_reduce(output)
    return output


def _removal_of_others(family: Family, rank: int, count: int) -> Removal:
    """Return the removal of the units that process `rank` does not compute."""
    shares = torch.arange(family.units).tensor_split(count)
    share = set(shares[rank].tolist())
    return Removal(family=family, units=tuple(i for i in range(family.units) if i not in share))


def _splittable(
    model: nn.Module, inputs: Any, coupled: Sequence[Coupled], count: int
) -> list[Family]:
    """Return the coupled sets that can be split, each in the first way that works."""
    options = [[w for w in group.ways if _divisible(w, count)] for group in coupled]
    return _working(model, inputs, [ways for ways in options if ways], count)


def _working(
    model: nn.Module, inputs: Any, options: Sequence[Sequence[Family]], count: int
) -> list[Family]:
    """Return the sets with which the model works, each in one of the ways in `options`.

    All sets are tried at once, then by halves, and a single set way by way: a try takes two passes
    of the model, and large models have hundreds of sets.
    """
    if not options:
        return []
    snapshot = Snapshot(model)
    first = [ways[0] for ways in options]
    for choice in [first] if len(options) > 1 else [[way] for way in options[0]]:
        reason = attempt(model, inputs, [_removal_of_others(way, 0, count) for way in choice])
        snapshot.restore()
        if reason is None:
            return choice
    if len(options) == 1:
        return []
    middle = len(options) // 2
    halves = options[:middle], options[middle:]
    return [way for half in halves for way in _working(model, inputs, half, count)]


def _divisible(family: Family, count: int) -> bool:
    """True if each process gets units, computes them alone, and all their readers can sum terms."""
    independent = not any(isinstance(m.module, _MIXING) for m in family.members)
    readers = [m for m in family.members if m.side == "in"]
    complete = all(bool((m.unit >= 0).all()) for m in readers)
    return family.units >= count and independent and complete and bool(_readers(family))


def _readers(family: Family) -> list[Any]:
    """Return the layers whose outputs are sums over the units of a family."""
    readers: list[Any] = []
    for member in family.members:
        if isinstance(member.module, nn.MultiheadAttention):
            readers.append(member.module.out_proj)
        elif member.side == "in":
            readers.append(member.module)
    return readers


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sides:
    """Ids of the layers that a family splits by their outputs (written) or inputs (read)."""

    written: set[int]
    read: set[int]

    def clashes(self, other: "_Sides") -> bool:
        """True if a layer would be split both ways, so that each process would lack a term."""
        return bool(self.written & other.read or self.read & other.written)


def _compatible(families: Sequence[Family], operations: dict[int, float]) -> list[Family]:
    """Return families that can be split together, preferring those with more operations.

    A layer is split either by its outputs or by its inputs: in a chain of layers, every second set
    of hidden neurons. Families are selected greedily, once in the model's order and once from the
    largest down; the selection with more operations wins.
    """
    sides = [_sides(f) for f in families]
    weights = [sum(operations.get(i, 0.0) for i in s.written | s.read) for s in sides]
    by_weight = sorted(range(len(families)), key=lambda i: -weights[i])
    best: list[int] = []
    for order in (range(len(families)), by_weight):
        selection: list[int] = []
        for i in order:
            if sides[i].read and not any(sides[i].clashes(sides[j]) for j in selection):
                selection.append(i)
        best = max(best, selection, key=lambda s: (sum(weights[i] for i in s), len(s)))
    return [families[i] for i in sorted(best)]


def _sides(family: Family) -> _Sides:
    written = {id(m.module) for m in family.members if m.side != "in"}
    return _Sides(written=written, read={id(r) for r in _readers(family)})


def _operations(model: nn.Module, inputs: Any) -> dict[int, float]:
    """Return the multiplications of each layer that has a matrix, by the layer's id."""
    operations: dict[int, float] = {}

    def count(module: Any, _: Any, output: Any) -> None:
        weight = matrices.weight(module) if matrices.linear(module) else module.weight
        operations[id(module)] = weight.numel() * output.numel() / weight.shape[0]

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
            operations[id(module)] = 4.0 * module.embed_dim**2
    return operations
