"""A process that does one job: started afresh, listened to, and killed with its children."""

import contextlib
import os
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from objectives.host import revive
from search.experiment import Experiment
from search.trial_process import main
from search.trial_process.start import FORKABLE, context_for
from spaces import processes

WATCH = 1.0
"""Seconds between looks at a process that says nothing."""

PATIENCE = 0.5
"""Seconds in which a process that has said its last word ends by itself."""


class Failed(Exception):
    """A process that ended without a result; the message is the reason."""


class Killed(Failed):
    """A process that was killed from outside: the same job may succeed elsewhere."""


class Child:
    """A new process that does a job; its messages are received one by one."""

    def __init__(
        self, job: processes.Message, log: Path, limit: float, measuring_threads: int
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        context = context_for(measuring_threads)
        self._connection, theirs = context.Pipe()
        job |= {
            "log": str(log.absolute()),
            "cwd": str(Path.cwd()),
            "environment": os.environ | FORKABLE,
        }
        self._process = context.Process(target=main.main, args=(theirs, job), name="trial")
        with _main_unseen():
            self._process.start()
        theirs.close()
        self._limit = limit
        self._deadline = time.monotonic() + limit

    def receive(self) -> processes.Message:
        """Return the next message; raises Failed when there will be none."""
        while not self._poll():
            revive(self._process.pid)
            if time.monotonic() >= self._deadline:
                raise Failed(f"it took longer than its limit of {self._limit:g} s and was killed")
        try:
            message = processes.receive(self._connection)
        except (EOFError, OSError):
            raise _ending(self._process) from None
        if "error" in message:
            raise Failed(message["error"])
        return message

    def answer(self, **message: Any) -> None:
        """Answer a message that waits for one; a process that has ended gets none."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            processes.send(self._connection, message)

    def close(self, patience: float = PATIENCE) -> None:
        """End the process and whatever it started; it has some seconds to end by itself."""
        kill(self._process, patience)
        self._connection.close()

    def _poll(self) -> bool:
        rest = min(WATCH, self._deadline - time.monotonic())
        return bool(self._connection.poll(max(0.0, rest)))


@contextlib.contextmanager
def child(
    job: processes.Message, log: Path, limit: float, measuring_threads: int
) -> Iterator[Child]:
    """Start a process, and end it with the context."""
    process = Child(job, log, limit, measuring_threads)
    try:
        yield process
    finally:
        process.close()


def job(
    kind: str, experiment: Experiment, run: Path, threads: int, **parts: Any
) -> processes.Message:
    """Return what a process needs to know of any job, and the parts of this one."""
    return {
        "kind": kind,
        "experiment": experiment.to_json(),
        "folder": str(experiment.folder),
        "run": str(run),
        "threads": threads,
        **parts,
    }


@contextlib.contextmanager
def _main_unseen() -> Iterator[None]:
    """Keep a new process from importing this one's main program: a Ray worker's imports all of Ray.

    A process starts with its job alone, which the main program has no part in.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _ending(process: Any) -> Failed:
    """Return how a process ended that gave no answer."""
    process.join()
    code = process.exitcode
    if code == -9:
        return Killed("its process was killed, most likely because memory ran out")
    return Failed(f"its process {processes.ending(code)} and no result")


def kill(process: Any, patience: float = PATIENCE) -> None:
    """End a process and all its descendants, those in sessions of their own included."""
    members = processes.family(process.pid)
    process.join(timeout=patience)
    processes.kill(members)
    process.join()
    process.close()
