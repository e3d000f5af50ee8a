"""A process that does one job: started afresh, listened to, and killed with its children."""

import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil

from objectives._lane import revive
from search.executors import _worker
from search.experiment import Experiment

WATCH = 1.0
"""Seconds between looks at a process that says nothing."""

FORKABLE = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Lets torch ask the driver whether there is a GPU: asking CUDA itself spoils later forks."""

Message = dict[str, Any]


class Failed(Exception):
    """A process that ended without a result; the message is the reason."""


class Killed(Failed):
    """A process that was killed from outside: the same job may succeed elsewhere."""


class Child:
    """A new process that does a job; its messages are received one by one."""

    def __init__(self, job: Message, log: Path, limit: float, measuring_threads: int) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        context = context_for(measuring_threads)
        self._connection, theirs = context.Pipe()
        job |= {
            "log": str(log.absolute()),
            "cwd": str(Path.cwd()),
            "environment": os.environ | FORKABLE,
        }
        self._process = context.Process(target=_worker.main, args=(theirs, job), name="trial")
        self._process.start()
        theirs.close()
        self._limit = limit
        self._deadline = time.monotonic() + limit

    def receive(self) -> Message:
        """Return the next message; raises Failed when there will be none."""
        while not self._poll():
            revive(self._process.pid)
            if time.monotonic() >= self._deadline:
                raise Failed(f"it took longer than its limit of {self._limit:g} s and was killed")
        try:
            message: Message = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise _ending(self._process) from None
        if "error" in message:
            raise Failed(message["error"])
        return message

    def answer(self, **message: Any) -> None:
        """Answer a message that waits for one; a process that has ended gets none."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send_bytes(json.dumps(message, allow_nan=False).encode())

    def close(self) -> None:
        """End the process and whatever it started."""
        kill(self._process)
        self._connection.close()

    def _poll(self) -> bool:
        rest = min(WATCH, self._deadline - time.monotonic())
        return bool(self._connection.poll(max(0.0, rest)))


@contextlib.contextmanager
def child(job: Message, log: Path, limit: float, measuring_threads: int) -> Iterator[Child]:
    """Start a process, and end it with the context."""
    process = Child(job, log, limit, measuring_threads)
    try:
        yield process
    finally:
        process.close()


def job(kind: str, experiment: Experiment, run: Path, threads: int, **parts: Any) -> Message:
    """Return what a process needs to know of any job, and the parts of this one."""
    return {
        "kind": kind,
        "text": experiment.text,
        "folder": str(experiment.folder),
        "run": str(run),
        "threads": threads,
        **parts,
    }


def context_for(measuring_threads: int) -> Any:
    """Return how processes are made: forked from one that has imported the libraries and no more.

    Such a process has no model, no thread and no warmed-up cache of another trial's, as a spawned
    one, but need not spend three seconds on importing torch. Where there is no fork it is spawned.

    Where one thread is measured, idle OpenMP threads sleep rather than spin: beside another busy
    process two spinning threads trained 14 s where sleeping ones took 3 s, and alone 3 s as well.
    Where several are measured, waiting is part of the latency and is left as it is. The first
    search of a process decides: the setting is read when torch is imported.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_worker.__name__])
    # Its modules are looked for where PYTHONPATH says: sys.path is not passed on.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    ours = FORKABLE | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if measuring_threads == 1:
        ours["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    before = dict(os.environ)
    os.environ.update(ours)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _ending(process: Any) -> Failed:
    """Return how a process ended that gave no answer."""
    process.join()
    code = process.exitcode
    if code == -9:
        return Killed("its process was killed, most likely because memory ran out")
    if code < 0:
        return Failed(f"its process crashed with signal {-code}")
    return Failed(f"its process ended with exit code {code} and no result")


def kill(process: Any) -> None:
    """End a process and all its descendants, those in sessions of their own included."""
    try:
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    process.join(timeout=0.5)
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.join()
    process.close()
