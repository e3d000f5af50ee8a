"""Pipeline parallelism: each process has consecutive layers and hands on what they compute."""

import collections
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from objectives.exporting import Replayed, torch_modules
from objectives.placement.job import Job
from objectives.placement.replicas import Share, gather
from objectives.placement.stages import Parcel, cut
from spaces.devices import device_of
from spaces.modules import call, flatten, plain, unflatten

_AHEAD = 2
"""Batches that a stage may be ahead of the next one."""


class Pipeline(Share):
    """One stage of consecutive layers; the last process has the outputs."""

    def __init__(self, job: Job, rank: int, count: int, device: torch.device) -> None:
        self._rank, self._count, self._device = rank, count, device
        self._dtype = torch_modules.dtype_of(job.notes["dtype"])
        model = job.runtime.module(job.folder, job.task, job.notes).eval().requires_grad_(False)
        self._kind = device_of(device)
        exact = self._dtype == torch.float32 and not self._kind.accelerator
        self.tolerance = 1e-4 if exact else 3e-2  # an accelerator rounds otherwise than a CPU
        batch = [torch_modules.cast(t, self._dtype) for t in job.example(job.target.batch_size)]
        structure = job.signature.inputs
        with torch.inference_mode():
            self._expected = flatten(call(model, plain(unflatten(batch, structure))))[0]
        self._batch = batch
        self._stage = cut(model, structure, batch, rank, count, device)
        self._compute = Replayed(self._computed, device)
        self._sent: collections.deque[tuple[Any, list[Tensor]]] = collections.deque()
        self.said = f"{count} stages, the first with {self._stage.share:.0%} of the cost"

    def verify(self) -> float:
        """Return the last stage's largest difference from the whole model; then record it."""
        found = self.read(self.run(self.feed(self._batch)))
        self.finish()
        pairs = list(zip(found, self._expected, strict=False))
        scale = max((float(b.abs().max()) for _, b in pairs), default=0.0) or 1.0
        gaps = [float((a.double() - b.double()).abs().max()) for a, b in pairs]
        del self._expected
        self._compute.record([self._empty(p) for p in self._stage.incoming])
        self.said += f"; {self._compute.execution}" * bool(self._compute.execution)
        return max(gaps, default=0.0) / scale

    def feed(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the inputs on the first process' device; the others need none."""
        if self._rank > 0:
            return []
        return [torch_modules.cast(t, self._dtype).to(self._device).contiguous() for t in tensors]

    def run(self, feed: list[Tensor]) -> list[Tensor]:
        """Take a batch from the stage before, compute, and hand it to the next."""
        incoming = feed if self._rank == 0 else self._received()
        outgoing = self._compute(incoming)
        if self._rank < self._count - 1:
            self._send(outgoing)
            return []
        return outgoing

    def read(self, raw: list[Tensor]) -> list[Tensor]:
        """Return the outputs where they are: in the last process."""
        return [torch_modules.owned(t).cpu() for t in raw]

    def finish(self) -> None:
        """Wait until all that was handed on has been taken."""
        self._wait(0)
        self._kind.synchronize()

    def settle(self) -> None:
        """Wait for the others."""
        self.finish()
        gather(self._rank)

    def _computed(self, tensors: Any) -> list[Tensor]:
        return list(self._stage.module(*tensors))

    def _empty(self, parcel: Parcel) -> Tensor:
        return torch.zeros(parcel.shape, dtype=parcel.dtype, device=self._device)

    def _received(self) -> list[Tensor]:
        tensors = [self._empty(parcel) for parcel in self._stage.incoming]
        for tensor in tensors:
            dist.recv(tensor, self._rank - 1)
        return tensors

    def _send(self, tensors: list[Tensor]) -> None:
        """Hand on a batch: an accelerator in the order of its queue, a CPU beside the next one."""
        tensors = [t.contiguous() for t in tensors]
        if self._kind.accelerator:
            for tensor in tensors:
                dist.send(tensor, self._rank + 1)
            return
        self._wait(_AHEAD - 1)
        work = [dist.isend(tensor, self._rank + 1) for tensor in tensors]
        self._sent.append((work, tensors))

    def _wait(self, left: int) -> None:
        while len(self._sent) > left:
            for work in self._sent.popleft()[0]:
                work.wait()
