"""What one process does of each batch."""

import abc
import time
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from objectives.placement.job import Job
from objectives.runtime import Program

SLACK = 3e-4
"""Seconds in which all leave a barrier: in a service the others wait for the first one too."""


class Share(abc.ABC):
    """What one process does of each batch."""

    collective = True
    """Whether all processes work on the same batch, and must hence do the same at a time."""
    said = ""
    """What is particular about it, in words."""
    tolerance = 0.0
    """Largest result of `verify` that is rounding."""

    @abc.abstractmethod
    def feed(self, tensors: list[Tensor]) -> Any:
        """Return a batch's input tensors (signature order) where and as they are computed with."""

    @abc.abstractmethod
    def run(self, feed: Any) -> Any:
        """Do this process' part of a batch; on a GPU it need not be finished on return."""

    @abc.abstractmethod
    def read(self, raw: Any) -> list[Tensor]:
        """Return the outputs as float32 CPU tensors; none where another process has them."""

    def verify(self) -> float:
        """Return how far outputs are from the whole artifact's, relative to the largest of them.

        Called once, in all processes, before the first batch.
        """
        return 0.0

    @abc.abstractmethod
    def finish(self) -> None:
        """Wait until all that was started is done."""

    @abc.abstractmethod
    def settle(self) -> None:
        """Wait until the other processes wait for a batch."""

    def timed(self, feed: Any) -> tuple[float, float]:
        """Return when a batch was begun and done here, in seconds of the host's clock."""
        self.settle()
        start = time.monotonic()
        self.run(feed)
        self.finish()
        return start, time.monotonic()


class Replica(Share):
    """The whole artifact in its own runtime: batches are shared, not what is done of each."""

    collective = False

    def __init__(self, job: Job) -> None:
        self.program: Program = job.load()

    def feed(self, tensors: list[Tensor]) -> Any:
        """Return the inputs in the runtime's form."""
        return self.program.feed(tensors)

    def run(self, feed: Any) -> Any:
        """Execute the whole batch."""
        return self.program.run(feed)

    def read(self, raw: Any) -> list[Tensor]:
        """Return the outputs."""
        return self.program.read(raw)

    def finish(self) -> None:
        """Do nothing: the runtime has finished when it returns."""

    def settle(self) -> None:
        """Do nothing: replicas do not wait for each other."""

    def burst(self, feeds: Sequence[Any], seconds: float, most: int) -> list[float]:
        """Return the seconds of runs, one after another until `seconds` have passed."""
        found: list[float] = []
        end = time.monotonic() + seconds
        while not found or (time.monotonic() < end and len(found) < most):
            found.append(self.program.seconds(feeds[len(found) % len(feeds)]))
        return found


def gather(rank: int) -> None:
    """Return when all processes have come here, in the first one a little after the others."""
    dist.barrier()
    if rank == 0:
        time.sleep(SLACK)
