"""One trial at a time on this machine, each in a fresh process that can be killed."""

import dataclasses
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from search.bar import Bar
from search.errors import BadEnvironment
from search.executors import _worker
from search.experiment import Experiment
from search.record import Record
from search.study import Asked

Listener = Callable[[str, int, int, str], None]
"""Told (stage, done, of, detail) of the trial under way."""
CONFIRM_MINUTES = 60


class Failed(Exception):
    """A process that ended without a result; the message is the reason."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local:
    """Runs one trial at a time in a fresh process, killed with its children at its time limit."""

    experiment: Experiment
    folder: Path
    """The run folder."""
    threads: int
    """Threads of building and training; measuring uses the target's."""

    def prepare(self) -> None:
        """Start importing the libraries now, beside whatever comes before the first trial."""
        _context(self.experiment.target.threads)

    def evaluate(self, asked: Asked, bar: Bar | None, listener: Listener) -> Record:
        """Return the record of a trial; a crash, a hang or a lack of memory is a failed one."""
        runtime = self.experiment.space.plan(asked.point).runtime
        content = {"trial": asked.trial, "point": asked.point, "bar": bar and bar.to_json()}
        job = self._job("trial", [runtime], **content)
        start = time.monotonic()
        log = self.folder / "logs" / f"{asked.trial}.log"
        try:
            return Record.from_json(self._run(job, log, self.experiment.trial_time, listener))
        except Failed as error:
            return Record(
                trial=asked.trial,
                point=asked.point,
                runtime=runtime,
                state="failed",
                reason=f"{error}; see {log}",
                seconds=round(time.monotonic() - start, 3),
            )

    def confirm(self, records: Sequence[Record], listener: Listener) -> dict[str, Any]:
        """Return new measurements of records by trial (search.confirm.measure).

        Raises BadEnvironment when the process fails.
        """
        runtimes = sorted({r.runtime for r in records})
        job = self._job("confirm", runtimes, records=[r.to_json() for r in records])
        log = self.folder / "logs" / "confirm.log"
        try:
            return dict(self._run(job, log, 60 * CONFIRM_MINUTES, listener))
        except Failed as error:
            raise BadEnvironment(f"the front could not be confirmed: {error}; see {log}") from error

    def _job(self, kind: str, runtimes: Sequence[str], **parts: Any) -> dict[str, Any]:
        return {
            "kind": kind,
            "runtimes": list(runtimes),
            "text": self.experiment.text,
            "folder": str(self.experiment.folder),
            "run": str(self.folder),
            "threads": self.threads,
            **parts,
        }

    def _run(self, job: dict[str, Any], log: Path, limit: float, listener: Listener) -> Any:
        """Return the result of a job done in a new process; raises Failed with the reason."""
        log.parent.mkdir(parents=True, exist_ok=True)
        context = _context(self.experiment.target.threads)
        ours, theirs = context.Pipe()
        job |= {"log": str(log.absolute()), "cwd": str(Path.cwd()), "environment": dict(os.environ)}
        process = context.Process(target=_worker.main, args=(theirs, job), name="trial")
        process.start()
        theirs.close()
        try:
            return _conversation(process, ours, limit, listener)
        finally:
            kill(process)
            ours.close()


def _context(measuring_threads: int) -> Any:
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
    ours = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
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


def _conversation(process: Any, connection: Connection, limit: float, listener: Listener) -> Any:
    """Pass progress on and return the result."""
    deadline = time.monotonic() + limit
    while True:
        if not connection.poll(max(0.0, deadline - time.monotonic())):
            raise Failed(f"it took longer than its limit of {limit:g} s and was killed")
        try:
            message = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            raise Failed(_ending(process)) from None
        if "result" in message:
            return message["result"]
        if "error" in message:
            raise Failed(message["error"])
        listener(message["stage"], message["done"], message["of"], message["detail"])


def _ending(process: Any) -> str:
    """Return how a process ended that gave no answer."""
    process.join()
    code = process.exitcode
    if code == -9:
        return "its process was killed, most likely because memory ran out"
    if code < 0:
        return f"its process crashed with signal {-code}"
    return f"its process ended with exit code {code} and no result"


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
