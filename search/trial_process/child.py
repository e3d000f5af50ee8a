"""Child process for one job: start it, receive its messages, and kill it with its children."""

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
"""Seconds between checks of a process that sends nothing."""

PATIENCE = 0.5
"""Seconds for a process to end by itself after its last message."""


class Failed(Exception):
    """A process ended without a result; the message is the reason."""


class Killed(Failed):
    """A process was killed from outside; the same job may succeed elsewhere."""


class Child:
    """A new process that does a job, with a method to receive its messages."""

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
        with _hidden_main():
            self._process.start()
        theirs.close()
        self._limit = limit
        self._deadline = time.monotonic() + limit

    def receive(self) -> processes.Message:
        """Return the next message.

        Raises Failed if the process reports an error, ends or exceeds its limit, Killed if it was
        killed from outside.
        """
        while not self._poll():
            revive(self._process.pid)
            if time.monotonic() >= self._deadline:
                raise Failed(f"it took longer than its limit of {self._limit:g} s and was killed")
        try:
            message = processes.receive(self._connection)
        except (EOFError, OSError):
            raise _failure(self._process) from None
        if "error" in message:
            raise Failed(message["error"])
        return message

    def answer(self, **message: Any) -> None:
        """Answer a message that waits for it; does nothing if the process has ended."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            processes.send(self._connection, message)

    def close(self, patience: float = PATIENCE) -> None:
        """End the process and its descendants; it has `patience` seconds to end by itself."""
        kill(self._process, patience)
        self._connection.close()

    def _poll(self) -> bool:
        timeout = min(WATCH, self._deadline - time.monotonic())
        return bool(self._connection.poll(max(0.0, timeout)))


@contextlib.contextmanager
def child(
    job: processes.Message, log: Path, limit: float, measuring_threads: int
) -> Iterator[Child]:
    """Start a process for a job, and end it with the context."""
    process = Child(job, log, limit, measuring_threads)
    try:
        yield process
    finally:
        process.close()


def job(
    kind: str, experiment: Experiment, run: Path, threads: int, **fields: Any
) -> processes.Message:
    """Return the message that describes a job: fields of every job, and those of this kind."""
    return {
        "kind": kind,
        "experiment": experiment.to_json(),
        "folder": str(experiment.folder),
        "run": str(run),
        "threads": threads,
        **fields,
    }


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep a new process from importing this one's main program, which in a Ray worker imports Ray.

    The process needs only its job.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _failure(process: Any) -> Failed:
    """Return the failure of a process that ended without a result."""
    process.join()
    code = process.exitcode
    if code == -9:
        return Killed("its process was killed, most likely because memory ran out")
    return Failed(f"its process {processes.ending(code)} and no result")


def kill(process: Any, patience: float = PATIENCE) -> None:
    """End a process and all its descendants, including those in other sessions."""
    members = processes.family(process.pid)
    process.join(timeout=patience)
    processes.kill(members)
    process.join()
    process.close()
