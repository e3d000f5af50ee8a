"""Pipeline parallelism: each process computes consecutive layers and sends on the results."""

import collections
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from objectives.exporting import Replayed, torch_modules
from objectives.placement.job import Job
from objectives.placement.replicas import Share, wait_for_all
from objectives.placement.stages import Parcel, cut
from spaces.devices import device_of
from spaces.modules import call, flatten, plain, unflatten

_AHEAD = 2
"""Batches that a stage may be ahead of the next stage."""


class Pipeline(Share):
    """A process's stage of consecutive layers; the last process has the outputs."""

    def __init__(self, job: Job, rank: int, count: int, device: torch.device) -> None:
        self._rank, self._count, self._device = rank, count, device
        self._dtype = torch_modules.dtype_of(job.notes["dtype"])
        model = job.runtime.module(job.folder, job.task, job.notes).eval().requires_grad_(False)
        self._kind = device_of(device)
        exact = self._dtype == torch.float32 and not self._kind.accelerator
        self.tolerance = 1e-4 if exact else 3e-2  # accelerators round differently from CPUs
        batch = [torch_modules.cast(t, self._dtype) for t in job.example(job.target.batch_size)]
        structure = job.signature.inputs
        self._expected: list[Tensor] = []
        if rank == count - 1:  # which alone has outputs to compare; the others would slow it down
            with torch.inference_mode():
                self._expected = flatten(call(model, plain(unflatten(batch, structure))))[0]
        self._batch = batch
        self._stage = cut(model, structure, batch, rank, count, device)
        self._compute = Replayed(self._computed, device)
        self._sent: collections.deque[tuple[Any, list[Tensor]]] = collections.deque()
        self.detail = f"{count} stages, the first with {self._stage.share:.0%} of the cost"

    def verify(self) -> float:
        """Return the outputs' largest deviation from the whole model's; then record the stage."""
        outputs = self.read(self.run(self.feed(self._batch)))
        self.finish()
        pairs = list(zip(outputs, self._expected, strict=False))
        scale = max((float(b.abs().max()) for _, b in pairs), default=0.0) or 1.0
        gaps = [float((a.double() - b.double()).abs().max()) for a, b in pairs]
        del self._expected
        self._compute.record([self._empty(p) for p in self._stage.incoming])
        self.detail += f"; {self._compute.execution}" * bool(self._compute.execution)
        return max(gaps, default=0.0) / scale

    def feed(self, tensors: list[Tensor]) -> list[Tensor]:
        """Copy the inputs to the first process's device; the others need none."""
        if self._rank > 0:
            return []
        return [torch_modules.cast(t, self._dtype).to(self._device).contiguous() for t in tensors]

    def run(self, feed: list[Tensor]) -> list[Tensor]:
        """Receive a batch from the previous stage, compute, and send it to the next."""
        incoming = feed if self._rank == 0 else self._received()
        outgoing = self._compute(incoming)
        if self._rank < self._count - 1:
            self._send(outgoing)
            return []
        return outgoing

    def read(self, raw: list[Tensor]) -> list[Tensor]:
        """Return the outputs in the last process, and nothing in the others."""
        return [torch_modules.owned(t).cpu() for t in raw]

    def finish(self) -> None:
        """Wait until all sent batches have been received."""
        self._wait(0)
        self._kind.synchronize()

    def settle(self) -> None:
        """Wait for the other processes."""
        self.finish()
        wait_for_all(self._rank)

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
        """Send a batch: in the order of an accelerator's queue, on a CPU in the background."""
        tensors = [t.contiguous() for t in tensors]
        if self._kind.accelerator:
            for tensor in tensors:
                dist.send(tensor, self._rank + 1)
            return
        self._wait(_AHEAD - 1)
        work = [dist.isend(tensor, self._rank + 1) for tensor in tensors]
        self._sent.append((work, tensors))

    def _wait(self, remaining: int) -> None:
        """Wait until at most `remaining` sent batches have not been received."""
        while len(self._sent) > remaining:
            for work in self._sent.popleft()[0]:
                work.wait()
