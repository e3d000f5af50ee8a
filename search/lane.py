"""Measuring in a fresh process: forked from one that has imported libraries and done no more.

A forked process has no model, no thread pool and no warmed-up cache of the trial's, yet need not
import anything: importing torch takes longer than most measurements.
"""

import dataclasses
import json
import multiprocessing
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from objectives import Measurement
from objectives._lane import die_with_parent
from search import measuring
from search.experiment import Experiment
from spaces import Infeasible
from spaces._reasons import said

Job = Callable[[dict[str, Any]], dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a measuring process found out about an artifact."""

    measurements: dict[str, Measurement]
    placement: dict[str, Any]
    """How several devices shared the work, and why; empty with one."""
    conditions: dict[str, Any]
    """What the GPU was and did: name, clocks, other processes; of a CPU, how busy others had it."""


class Crashed(Exception):
    """A measuring process ended without an answer, or could not measure; the message says why."""


class Lane:
    """A server that measures artifacts, one at a time, each in a process of its own."""

    def __init__(self) -> None:
        kind = "fork" if sys.platform == "linux" else "spawn"
        self._context = _context(kind)
        self._connection, theirs = self._context.Pipe()
        with warnings.catch_warnings():
            # NumPy's idle threads: they survive a fork by NumPy's own handlers.
            warnings.filterwarnings(
                "ignore", "This process .* is multi-threaded", DeprecationWarning
            )
            self._server = self._context.Process(
                target=_serve, args=(theirs, kind), daemon=False, name="lane"
            )
            self._server.start()
        theirs.close()

    def measure(
        self,
        experiment: Experiment,
        artifact: Path,
        names: Sequence[str],
        *,
        split: str,
        data: Path,
        strategy: str | None = None,
    ) -> Found:
        """Return the measurements of an artifact, loaded afresh.

        `strategy` is how its devices were found to share the work best, if that is known.
        Raises Crashed, and Infeasible when its devices cannot share it.
        """
        answer = self._ask(
            job="measure",
            artifacts=[str(artifact)],
            strategies={str(artifact): strategy} if strategy else {},
            names=list(names),
            split=split,
            data=str(data),
            text=experiment.text,
            folder=str(experiment.folder),
        )
        values = {name: Measurement(**fields) for name, fields in answer["measurements"].items()}
        return Found(
            measurements=values, placement=answer["placement"], conditions=answer["conditions"]
        )

    def interleave(
        self,
        experiment: Experiment,
        artifacts: Mapping[Path, str | None],
        *,
        rounds: int,
        data: Path,
    ) -> dict[str, dict[str, Measurement] | str]:
        """Return new times of artifacts measured in turns, or why one cannot be measured.

        `artifacts` come with the strategies that their devices use, None where there is none.
        """
        answer = self._ask(
            job="interleave",
            artifacts=[str(a) for a in artifacts],
            strategies={str(a): s for a, s in artifacts.items() if s},
            rounds=rounds,
            data=str(data),
            text=experiment.text,
            folder=str(experiment.folder),
        )
        return {
            artifact: found
            if isinstance(found, str)
            else {k: Measurement(**v) for k, v in found.items()}
            for artifact, found in answer.items()
        }

    def close(self) -> None:
        """End the server."""
        self._connection.close()
        self._server.kill()  # it holds a copy of our end, so that it would wait for ever
        self._server.join()

    def _ask(self, **request: Any) -> dict[str, Any]:
        self._connection.send_bytes(json.dumps(request).encode())
        try:
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except EOFError as error:
            raise Crashed("the measuring server ended unexpectedly") from error
        if "infeasible" in answer:
            raise Infeasible(answer["infeasible"])
        if "error" in answer:
            print(answer.get("trace", ""), file=sys.stderr)
            raise Crashed(answer["error"])
        return dict(answer["result"])


def _serve(connection: Connection, kind: str) -> None:
    """Answer requests until the other end closes; a crash costs one answer."""
    die_with_parent()
    context = _context(kind)
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        ours, theirs = context.Pipe()
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "This process .* is multi-threaded", DeprecationWarning
            )
            worker = context.Process(target=_work, args=(theirs, request), name="measurement")
            worker.start()
        theirs.close()
        try:
            answer = ours.recv_bytes()
        except EOFError:
            worker.join()
            how = f"signal {-worker.exitcode}" if (worker.exitcode or 0) < 0 else "exit"
            answer = json.dumps({"error": f"the runtime crashed while measuring ({how})"}).encode()
        worker.join()
        connection.send_bytes(answer)


def _work(connection: Connection, request: bytes) -> None:
    """Do one measurement and send the answer: the boundary where a measurement fails."""
    die_with_parent()
    try:
        answer: dict[str, Any] = {"result": measuring.do(json.loads(request))}
    except Infeasible as error:
        answer = {"infeasible": str(error)}
    except Exception as error:
        answer = {"error": said(error), "trace": traceback.format_exc()}
    connection.send_bytes(json.dumps(answer, allow_nan=False).encode())


def _context(kind: str) -> Any:
    return multiprocessing.get_context(kind)
