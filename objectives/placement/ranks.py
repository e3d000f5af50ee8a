"""Start, query and end the processes of a placed artifact."""

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
"""Longest wait for an answer beyond the seconds that the request itself takes."""


class DeviceFailed(RuntimeError):
    """A process of a placed artifact failed, ended or did not answer; the message names it."""


class Ranks:
    """One process per device; all end with this process, on close, and on any failure."""

    def __init__(self, job: Job, count: int) -> None:
        self._folder = tempfile.mkdtemp(prefix="paretune-")
        cores = cores_of(job.target.device, job.target.threads, count)
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self.close = weakref.finalize(
            self, _end, self._processes, self._connections, self._folder, os.getpid()
        )
        """Ends the processes; safe to call again."""
        context: Any = multiprocessing.get_context(start_method())
        for rank in range(count):
            parent_end, child_end = context.Pipe()
            # A forked process inherits the open connections and must close them.
            inherited = (*self._connections, parent_end) if start_method() == "fork" else ()
            store = str(Path(self._folder) / "store")
            arguments = (child_end, inherited, job, rank, count, store, cores[rank])
            process = context.Process(
                target=worker.main, args=arguments, name=f"device-{rank}", daemon=True
            )
            with warnings.catch_warnings():
                # The warning is about idle threads of NumPy, whose own handlers make a fork safe.
                warnings.filterwarnings("ignore", "This process .* is multi-th", DeprecationWarning)
                process.start()
            child_end.close()
            self._processes.append(process)
            self._connections.append(parent_end)

    def ask(
        self,
        request: dict[str, Any],
        tensors: Sequence[Tensor] = (),
        *,
        only: Sequence[int] | None = None,
        seconds: float = 0.0,
    ) -> list[Answer]:
        """Send a request to all processes, or to those in `only`; return their answers in order.

        Raises Infeasible with the reason of a process. Raises DeviceFailed if a process fails, has
        ended or does not answer within `seconds` and a margin; all processes are then ended.
        """
        recipients = list(only) if only is not None else list(range(len(self._connections)))
        if not self._processes:
            raise DeviceFailed("the processes of this artifact have been ended")
        try:
            for rank in recipients:
                processes.send(self._connections[rank], request, tensors)
        except OSError:
            raise self._failed(f"device {rank}: {self._ending(rank)}") from None
        answers: dict[int, Answer] = {}
        deadline = time.monotonic() + seconds + SECONDS
        while len(answers) < len(recipients):
            self._collect([r for r in recipients if r not in answers], answers, deadline)
        reasons = [a["infeasible"] for a, _ in answers.values() if "infeasible" in a]
        if reasons:
            raise Infeasible(reasons[0])
        return [answers[rank] for rank in recipients]

    def _collect(self, missing: list[int], answers: dict[int, Answer], deadline: float) -> None:
        """Wait for the first missing answer and take all that have arrived."""
        waiting = {self._connections[rank]: rank for rank in missing}
        ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
        if not ready:
            numbers = ", ".join(map(str, missing))
            raise self._failed(f"device {numbers}: no answer; its processes were ended")
        for connection in ready:
            assert isinstance(connection, Connection)
            rank = waiting[connection]
            try:
                answers[rank] = processes.receive_tensors(connection)
            except (EOFError, OSError):
                raise self._failed(f"device {rank}: {self._ending(rank)}") from None
            header = answers[rank][0]
            if "error" in header:
                print(header["trace"], file=sys.stderr)
                raise self._failed(self._first_ended() or header["error"])

    def _first_ended(self) -> str | None:
        """Describe the first process that has ended, None if all run.

        The errors of other processes follow from it, as collectives fail without it.
        """
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


def start_method() -> str:
    """Return the start method for processes: "fork" where that is safe, otherwise "spawn".

    A fork copies only the calling thread: locks that other threads hold stay locked in the copy,
    and CUDA does not survive a fork at all. It is safe in a process with a single thread, such as a
    measuring process before it loads an artifact. There it takes milliseconds, spawning seconds,
    because a forked process need not import the libraries again.
    """
    if sys.platform != "linux" or any(device.initialized() for device in all_devices()):
        return "spawn"
    return "fork" if psutil.Process().num_threads() == 1 else "spawn"


def cores_of(device: str, threads: int, count: int) -> list[tuple[int, ...]]:
    """Return the cores of each process; raises Infeasible if there are too few.

    Processes on a CPU have as many cores as the target has threads; processes of accelerators
    divide all cores among them.
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


def _end(children: list[Any], connections: list[Connection], folder: str, owner: int) -> None:
    """End the processes and remove their shared folder; does nothing in a forked process."""
    if os.getpid() != owner:
        return
    for connection in connections:
        connection.close()
    for process in children:
        process.join(timeout=0.2)
    for process in children:
        process.kill()
    for process in children:
        process.join()
        process.close()
    children.clear()
    connections.clear()
    shutil.rmtree(folder, ignore_errors=True)
