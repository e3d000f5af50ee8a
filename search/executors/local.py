"""One trial at a time on this machine, each in a fresh process that can be killed."""

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from search.bar import Bar
from search.errors import BadEnvironment
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
        command = [sys.executable, "-m", "search.executors._worker"]
        with log.open("w") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env=_environment(self.experiment.target.threads),
            )
            try:
                return _conversation(process, json.dumps(job), limit, listener)
            finally:
                kill(process)


def _conversation(
    process: "subprocess.Popen[str]", job: str, limit: float, listener: Listener
) -> Any:
    """Send the job, pass progress on, and return the result."""
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    try:
        process.stdin.write(job)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended at once: the empty answer below says how
    deadline = time.monotonic() + limit
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise Failed(f"it took longer than its limit of {limit:g} s and was killed") from None
        if line is None:
            raise Failed(_ending(process))
        message = json.loads(line)
        if "result" in message:
            return message["result"]
        if "error" in message:
            raise Failed(message["error"])
        listener(message["stage"], message["done"], message["of"], message["detail"])


def _read(stream: IO[str], lines: "queue.SimpleQueue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _ending(process: "subprocess.Popen[str]") -> str:
    """Return how a process ended that gave no answer."""
    code = process.wait()
    if code == -9:
        return "its process was killed, most likely because memory ran out"
    if code < 0:
        return f"its process crashed with signal {-code}"
    return f"its process ended with exit code {code} and no result"


def kill(process: "subprocess.Popen[str]") -> None:
    """End a process and all its descendants, those in sessions of their own included."""
    try:
        family = [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


def _environment(measuring_threads: int) -> dict[str, str]:
    """Return this process's environment, with the project importable from any working directory.

    Where one thread is measured, idle OpenMP threads sleep rather than spin: beside another busy
    process two spinning threads trained 14 s where sleeping ones took 3 s, and alone 3 s as well.
    Where several are measured, waiting is part of the latency and is left as it is.
    """
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"} if measuring_threads == 1 else {}
    ours = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    return waiting | os.environ | ours
