"""The processes of a placed artifact, as whoever loaded it sees them."""

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil
from torch import Tensor

from objectives.placement import worker
from objectives.placement.job import Job
from spaces import Infeasible, processes
from spaces.devices import all_devices, device_of

Answer = tuple[dict[str, Any], list[Tensor]]
SECONDS = 300.0
"""Longest that an answer may take beyond the seconds that were asked for."""


class DeviceFailed(RuntimeError):
    """A process of a placed artifact failed, ended or did not answer; the message says which."""


class Ranks:
    """One process for each device. They end with this process, when closed, and on any failure."""

    def __init__(self, job: Job, count: int) -> None:
        self._folder = tempfile.mkdtemp(prefix="paretune-")
        cores = cores_of(job.target.device, job.target.threads, count)
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self.close = weakref.finalize(
            self, _end, self._processes, self._connections, self._folder, os.getpid()
        )
        """Ends the processes; safe to call again."""
        context: Any = multiprocessing.get_context(how())
        for rank in range(count):
            ours, theirs = context.Pipe()
            # A spawned process has no copies of what is open here, a forked one has.
            copied = (*self._connections, ours) if how() == "fork" else ()
            store = str(Path(self._folder) / "store")
            arguments = (theirs, copied, job, rank, count, store, cores[rank])
            process = context.Process(
                target=worker.main, args=arguments, name=f"device-{rank}", daemon=True
            )
            with warnings.catch_warnings():
                # NumPy's idle threads: they survive a fork by NumPy's own handlers.
                warnings.filterwarnings("ignore", "This process .* is multi-th", DeprecationWarning)
                process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def ask(
        self,
        request: dict[str, Any],
        tensors: Sequence[Tensor] = (),
        *,
        only: Sequence[int] | None = None,
        seconds: float = 0.0,
    ) -> list[Answer]:
        """Return the answers of all processes, or of some, in their order.

        Raises Infeasible with a process' reason, and DeviceFailed when one fails, has ended or
        does not answer in `seconds` and a margin; then all of them are ended.
        """
        chosen = list(only) if only is not None else list(range(len(self._connections)))
        if not self._processes:
            raise DeviceFailed("the processes of this artifact have been ended")
        try:
            for rank in chosen:
                processes.send(self._connections[rank], request, tensors)
        except OSError:
            raise self._failed(f"device {rank}: {self._ending(rank)}") from None
        answers: dict[int, Answer] = {}
        deadline = time.monotonic() + seconds + SECONDS
        while len(answers) < len(chosen):
            self._collect([r for r in chosen if r not in answers], answers, deadline)
        refused = [a["infeasible"] for a, _ in answers.values() if "infeasible" in a]
        if refused:
            raise Infeasible(refused[0])
        return [answers[rank] for rank in chosen]

    def _collect(self, missing: list[int], answers: dict[int, Answer], deadline: float) -> None:
        """Take the answers that have arrived, waiting for the first."""
        waiting = {self._connections[rank]: rank for rank in missing}
        ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
        if not ready:
            named = ", ".join(map(str, missing))
            raise self._failed(f"device {named}: no answer; its processes were ended")
        for connection in ready:
            assert isinstance(connection, Connection)
            rank = waiting[connection]
            try:
                answers[rank] = processes.receive_tensors(connection)
            except (EOFError, OSError):
                raise self._failed(f"device {rank}: {self._ending(rank)}") from None
            found = answers[rank][0]
            if "error" in found:
                print(found["trace"], file=sys.stderr)
                raise self._failed(self._first_ended() or found["error"])

    def _first_ended(self) -> str | None:
        """Return which process has ended: others then fail as well, in what they share with it."""
        for rank, process in enumerate(self._processes):
            process.join(timeout=0)
            if process.exitcode is not None:
                return f"device {rank}: {self._ending(rank)}"
        return None

    def _ending(self, rank: int) -> str:
        self._processes[rank].join(timeout=5)
        return f"its process {processes.ending(self._processes[rank].exitcode)}"

    def _failed(self, message: str) -> DeviceFailed:
        self.close()
        return DeviceFailed(message)


def how() -> str:
    """Return how processes are started here: forked where that is safe, else spawned.

    A fork copies only the thread that asks for it: locks that other threads hold stay locked for
    ever in the copy, and CUDA does not survive it at all. A process with a single thread has
    neither, as a measuring process before it has loaded anything: it forks in milliseconds what
    takes seconds to spawn, because the libraries need not be imported again.
    """
    if sys.platform != "linux" or any(device.initialized() for device in all_devices()):
        return "spawn"
    return "fork" if psutil.Process().num_threads() == 1 else "spawn"


def cores_of(device: str, threads: int, count: int) -> list[tuple[int, ...]]:
    """Return the cores of each device's process; raises Infeasible where they do not suffice.

    On a CPU each has as many as the target has threads; those that feed accelerators share all.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [()] * count
    cores = sorted(os.sched_getaffinity(0))
    if device_of(device).accelerator:
        return [tuple(cores[rank::count]) or tuple(cores) for rank in range(count)]
    if count > 1 and len(cores) < count * threads:
        raise Infeasible(
            f"{count} devices of {threads} threads each need {count * threads} cores, this process "
            f"has {len(cores)}"
        )
    return [tuple(cores[i * threads : (i + 1) * threads]) or tuple(cores) for i in range(count)]


def _end(started: list[Any], connections: list[Connection], folder: str, owner: int) -> None:
    """End the processes and remove what they shared; does nothing in a forked copy."""
    if os.getpid() != owner:
        return
    for connection in connections:
        connection.close()
    for process in started:
        process.join(timeout=0.2)
    for process in started:
        process.kill()
    for process in started:
        process.join()
        process.close()
    started.clear()
    connections.clear()
    shutil.rmtree(folder, ignore_errors=True)
