"""Interface of the share of one process in the work, and replicas of the whole artifact."""

import abc
import time
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from objectives.placement.job import Job
from objectives.runtime import Program

SLACK = 3e-4
"""Seconds by which the first process starts after the others: in a service they wait for it too."""


class Share(abc.ABC):
    """Interface of the share of one process in the work on batches."""

    collective = True
    """True if all processes work on the same batch and must therefore run together."""
    detail = ""
    """Description of the share for the placement's reason."""
    tolerance = 0.0
    """Largest deviation in `verify` that is due to rounding."""

    @abc.abstractmethod
    def feed(self, tensors: list[Tensor]) -> Any:
        """Convert a batch's input tensors (signature order) to the form and device of `run`."""

    @abc.abstractmethod
    def run(self, feed: Any) -> Any:
        """Compute this process's share of a batch; on a GPU it may not be finished on return."""

    @abc.abstractmethod
    def read(self, raw: Any) -> list[Tensor]:
        """Convert raw outputs to float32 CPU tensors; empty if another process has the outputs."""

    def verify(self) -> float:
        """Return the outputs' deviation from the whole artifact's, relative to the largest output.

        Called once, in all processes, before the first batch.
        """
        return 0.0

    @abc.abstractmethod
    def finish(self) -> None:
        """Wait until all started work is done."""

    @abc.abstractmethod
    def settle(self) -> None:
        """Wait until the other processes wait for a batch."""

    def timed(self, feed: Any) -> tuple[float, float]:
        """Run a batch; return its start and end in this process, in seconds of the host's clock."""
        self.settle()
        start = time.monotonic()
        self.run(feed)
        self.finish()
        return start, time.monotonic()


class Replica(Share):
    """The whole artifact in its own runtime: processes share batches, not the work on a batch."""

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
        """Do nothing, since a runtime returns after it has finished."""

    def settle(self) -> None:
        """Do nothing, since replicas do not wait for each other."""

    def burst(self, feeds: Sequence[Any], seconds: float, max_runs: int) -> list[float]:
        """Return the seconds of runs, until `seconds` have passed or `max_runs` are done."""
        times: list[float] = []
        end = time.monotonic() + seconds
        while not times or (time.monotonic() < end and len(times) < max_runs):
            times.append(self.program.seconds(feeds[len(times) % len(feeds)]))
        return times


def wait_for_all(rank: int) -> None:
    """Wait until all processes call this; the first one returns SLACK seconds later."""
    dist.barrier()
    if rank == 0:
        time.sleep(SLACK)
