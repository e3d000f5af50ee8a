"""What one process of a placed artifact does: answer requests until nobody asks any more."""

import datetime
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from objectives.placement import memory
from objectives.placement.job import Job
from objectives.placement.pipeline_parallel import Pipeline
from objectives.placement.replicas import Replica, Share
from objectives.placement.stages import prepare
from objectives.placement.tensor_parallel import Tensors
from spaces import Infeasible, processes, said
from spaces.devices import HOST, device_of

Answer = tuple[dict[str, Any], list[Tensor]]
COLLECTIVE_SECONDS = 120.0
"""After this long without the others, a process gives a collective up."""
MOST = 2000
"""Runs of one burst at most."""


def main(
    connection: Connection,
    others: Sequence[Connection],
    job: Job,
    rank: int,
    count: int,
    store: str,
    cores: Sequence[int],
) -> None:
    """Serve one end of `connection`. `others` are ends that a fork has copied: not ours."""
    processes.die_with_parent()
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if cores:
        os.sched_setaffinity(0, cores)
    accelerated = device_of(job.target.device).accelerator is not None
    torch.set_num_threads((len(cores) or 1) if accelerated else job.target.threads)
    worker = Worker(job, rank, count, Path(store))
    while True:
        try:
            request, tensors = processes.receive_tensors(connection)
        except (EOFError, OSError):
            break
        try:
            answer = worker.do(request, tensors)
        except Infeasible as error:
            answer = {"infeasible": str(error)}, []
        except Exception as error:  # the boundary: one line for the parent, the rest for the log
            told = f"device {rank}: {said(error)}"
            answer = {"error": told, "trace": traceback.format_exc()}, []
        try:
            processes.send(connection, *answer)
        except OSError:
            break
    worker.close()


class Worker:
    """The share of one process, and what it can be asked about it."""

    def __init__(self, job: Job, rank: int, count: int, store: Path) -> None:
        self._job, self._rank, self._count, self._store = job, rank, count, store
        self._kind = device_of(job.target.device)
        self._device = self._kind.select(rank)
        memory.trim()
        self._before = memory.held()
        self._share: Share | None = None
        self._feeds: dict[int, Any] = {}

    def do(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Answer a request."""
        for key in request.get("drop", ()):
            self._feeds.pop(key, None)
        known: dict[str, Callable[[dict[str, Any], list[Tensor]], Answer]] = {
            "place": self._place,
            "verify": self._verify,
            "feed": self._feed,
            "run": self._run,
            "time": self._time,
            "burst": self._burst,
            "stream": self._stream,
            "memory": self._memory,
        }
        return known[request["do"]](request, tensors)

    def close(self) -> None:
        """Leave the group, if one was formed."""
        self._share = None
        if dist.is_initialized():
            dist.destroy_process_group()

    def _place(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Take up a strategy in place of the last one; nothing collective happens yet."""
        del tensors
        self._share = None
        self._feeds.clear()
        memory.trim()
        self._kind.empty_cache()
        try:
            self._share = self._taken_up(request["strategy"])
        except (torch.OutOfMemoryError, MemoryError):
            raise Infeasible(f"the artifact does not fit into device {self._rank}") from None
        memory.trim()
        return {"said": self._share.said}, []

    def _taken_up(self, strategy: str) -> Share:
        if strategy == "data":
            return Replica(self._job)
        self._join()
        if strategy == "pipeline":
            # What cuts a model, 90 MB of libraries, is not part of it and is not counted.
            before = memory.held()
            prepare()
            self._before += memory.held() - before
        kind = {"tensor": Tensors, "pipeline": Pipeline}[strategy]
        return kind(self._job, self._rank, self._count, self._device)

    def _join(self) -> None:
        """Form the group of all processes, over the loopback interface: they share a host."""
        if dist.is_initialized():
            return
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        host, own = device_of(HOST), self._kind
        both = f"{host.name}:{host.backend},{own.name}:{own.backend}"
        dist.init_process_group(
            both if own.accelerator else host.backend,
            store=dist.FileStore(str(self._store), self._count),  # type: ignore[attr-defined]
            rank=self._rank,
            world_size=self._count,
            timeout=datetime.timedelta(seconds=COLLECTIVE_SECONDS),
        )

    def _placed(self) -> Share:
        if self._share is None:
            raise ValueError("no strategy was taken up yet")
        return self._share

    def _verify(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        del request, tensors
        share = self._placed()
        gap = share.verify()
        memory.trim()
        return {"gap": gap, "tolerance": share.tolerance, "said": share.said}, []

    def _feed(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        self._feeds[request["key"]] = self._placed().feed(tensors)
        return {}, []

    def _run(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        del tensors
        share = self._placed()
        raw = share.run(self._feeds[request["key"]])
        share.finish()
        return {}, share.read(raw)

    def _time(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Run single batches; say when each was begun and done here."""
        del tensors
        share, feeds = self._placed(), [self._feeds[k] for k in request["keys"]]
        spans = [share.timed(feeds[i % len(feeds)]) for i in range(request["count"])]
        return {"spans": spans}, []

    def _burst(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Run batches one after another while the other replicas do the same."""
        del tensors
        share = self._placed()
        assert isinstance(share, Replica)
        feeds = [self._feeds[k] for k in request["keys"]]
        return {"times": share.burst(feeds, request["seconds"], MOST)}, []

    def _stream(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Return rates of a stream: a replica's own, or when the first and last batch were done."""
        del tensors
        share, feeds = self._placed(), [self._feeds[k] for k in request["keys"]]
        if isinstance(share, Replica):
            return {"rates": share.program.stream(feeds, request["seconds"])}, []
        share.settle()
        share.run(feeds[0])
        share.finish()
        first = time.monotonic()
        for i in range(request["count"]):
            share.run(feeds[(i + 1) % len(feeds)])
        share.finish()
        return {"span": (first, time.monotonic())}, []

    def _memory(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Return the most bytes in use here while batches are run."""
        del tensors
        share, feeds = self._placed(), [self._feeds[k] for k in request["keys"]]
        share.read(share.run(feeds[0]))
        share.finish()

        def work() -> None:
            for feed in feeds:
                raw = share.run(feed)
                share.finish()
                share.read(raw)

        allocated = self._kind.peak_memory(work)
        if allocated is None:
            allocated = memory.peak(work, self._job.folder) - self._before
        return {"bytes": allocated}, []
