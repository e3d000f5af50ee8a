"""Process of a placed artifact: load a share of it and answer requests until the parent ends."""

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
from objectives.placement.tensor_parallel import TensorParallel
from spaces import Infeasible, processes, said
from spaces.devices import HOST, device_of

Answer = tuple[dict[str, Any], list[Tensor]]
COLLECTIVE_SECONDS = 120.0
"""Time after which a process gives up a collective that others have not joined."""
MAX_RUNS = 2000
"""Largest number of runs in one burst."""


def main(
    connection: Connection,
    others: Sequence[Connection],
    job: Job,
    rank: int,
    count: int,
    store: str,
    cores: Sequence[int],
) -> None:
    """Answer the requests on `connection`; `others` are inherited by a fork and only closed."""
    processes.die_with_parent()
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl+C
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
        except Exception as error:  # one line for the parent, the rest for the log
            message = f"device {rank}: {said(error)}"
            answer = {"error": message, "trace": traceback.format_exc()}, []
        try:
            processes.send(connection, *answer)
        except OSError:
            break
    worker.close()


class Worker:
    """The share of one process, with the batches stored for it."""

    def __init__(self, job: Job, rank: int, count: int, store: Path) -> None:
        self._job, self._rank, self._count, self._store = job, rank, count, store
        self._kind = device_of(job.target.device)
        self._device = self._kind.select(rank)
        memory.trim()
        self._before = memory.private_bytes()
        self._share: Share | None = None
        self._feeds: dict[int, Any] = {}

    def do(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Return the answer to a request, after dropping the batches that it lists."""
        for key in request.get("drop", ()):
            self._feeds.pop(key, None)
        actions: dict[str, Callable[[dict[str, Any], list[Tensor]], Answer]] = {
            "place": self._place,
            "verify": self._verify,
            "feed": self._feed,
            "run": self._run,
            "time": self._time,
            "burst": self._burst,
            "stream": self._stream,
            "memory": self._memory,
        }
        return actions[request["do"]](request, tensors)

    def close(self) -> None:
        """Leave the process group, if one was formed."""
        self._share = None
        if dist.is_initialized():
            dist.destroy_process_group()

    def _place(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Load the share of a strategy in place of the previous one, without collectives."""
        del tensors
        self._share = None
        self._feeds.clear()
        memory.trim()
        self._kind.empty_cache()
        try:
            self._share = self._load_share(request["strategy"])
        except (torch.OutOfMemoryError, MemoryError):
            raise Infeasible(f"the artifact does not fit into device {self._rank}") from None
        memory.trim()
        return {"detail": self._share.detail}, []

    def _load_share(self, strategy: str) -> Share:
        if strategy == "data":
            return Replica(self._job)
        self._join()
        if strategy == "pipeline":
            # The libraries that cut a model, 90 MB, do not count as memory of the artifact.
            before = memory.private_bytes()
            prepare()
            self._before += memory.private_bytes() - before
        kind = {"tensor": TensorParallel, "pipeline": Pipeline}[strategy]
        return kind(self._job, self._rank, self._count, self._device)

    def _join(self) -> None:
        """Form the group of all processes, over the loopback interface since they share a host."""
        if dist.is_initialized():
            return
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        host, device = device_of(HOST), self._kind
        both = f"{host.name}:{host.backend},{device.name}:{device.backend}"
        dist.init_process_group(
            both if device.accelerator else host.backend,
            store=dist.FileStore(str(self._store), self._count),  # type: ignore[attr-defined]
            rank=self._rank,
            world_size=self._count,
            timeout=datetime.timedelta(seconds=COLLECTIVE_SECONDS),
        )

    def _current_share(self) -> Share:
        if self._share is None:
            raise ValueError("no strategy was taken up yet")
        return self._share

    def _verify(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        del request, tensors
        share = self._current_share()
        gap = share.verify()
        memory.trim()
        return {"gap": gap, "tolerance": share.tolerance, "detail": share.detail}, []

    def _feed(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        self._feeds[request["key"]] = self._current_share().feed(tensors)
        return {}, []

    def _run(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        del tensors
        share = self._current_share()
        raw = share.run(self._feeds[request["key"]])
        share.finish()
        return {}, share.read(raw)

    def _time(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Run single batches; return the start and end of each in this process."""
        del tensors
        share, feeds = self._current_share(), [self._feeds[k] for k in request["keys"]]
        spans = [share.timed(feeds[i % len(feeds)]) for i in range(request["count"])]
        return {"spans": spans}, []

    def _burst(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Run consecutive batches while the other replicas do the same; return their times."""
        del tensors
        share = self._current_share()
        assert isinstance(share, Replica)
        feeds = [self._feeds[k] for k in request["keys"]]
        return {"times": share.burst(feeds, request["seconds"], MAX_RUNS)}, []

    def _stream(self, request: dict[str, Any], tensors: list[Tensor]) -> Answer:
        """Return a replica's rates, or the ends of the first and last batch of a joint stream."""
        del tensors
        share, feeds = self._current_share(), [self._feeds[k] for k in request["keys"]]
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
        """Run batches and return the peak bytes of this process's device."""
        del tensors
        share, feeds = self._current_share(), [self._feeds[k] for k in request["keys"]]
        share.read(share.run(feeds[0]))
        share.finish()

        def work() -> None:
            for feed in feeds:
                raw = share.run(feed)
                share.finish()
                share.read(raw)

        allocated = self._kind.peak_memory(work)
        if allocated is None:
            allocated = memory.peak_bytes(work, self._job.folder) - self._before
        return {"bytes": allocated}, []
