"""Measuring in a fresh process: forked from one that has imported libraries and done no more.

A forked process has no model, no thread pool and no warmed-up cache of the trial's, yet need not
import anything: importing torch takes longer than most measurements.
"""

import dataclasses
import multiprocessing
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from objectives import Measurement
from search.experiment import Experiment, Goal, timed
from search.measuring import worker
from search.measuring.subject import Subject
from spaces import Alone, Infeasible, encode, processes, said

Job = Callable[[dict[str, Any]], dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What measuring processes found out about an artifact."""

    measurements: dict[str, Measurement]
    placement: dict[str, Any]
    """How several devices shared the work, and why; empty with one."""
    conditions: dict[str, Any]
    """What the GPU was and did: name, clocks, other processes; of a CPU, how busy others had it."""
    times: dict[str, tuple[list[float], ...]]
    """What is timed, by objective: the observations of each process."""
    share: int
    """In how many processes it is to be timed; the first one decides, by how long it loads."""

    @property
    def processes(self) -> int:
        """How many processes timed the artifact; 0 where nothing is timed."""
        return max(map(len, self.times.values()), default=0)

    @property
    def complete(self) -> bool:
        """Whether all processes that share what is timed have done their parts."""
        return not self.times or self.processes >= self.share


class Crashed(Exception):
    """A measuring process ended without an answer, or could not measure; the message says why."""


class Lane:
    """A server that measures artifacts, one at a time, each in a process of its own."""

    def __init__(self, *, traces: bool = True) -> None:
        """`traces` says that stderr is a log, which gets the traces of what fails."""
        self._traces = traces
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
        limit: int = worker.PROCESSES,
        known: Measured | None = None,
    ) -> Measured:
        """Return the measurements of an artifact, loaded afresh.

        It is timed in up to `limit` fresh processes, run one after another. Processes in
        `known` count towards that limit, and their times are kept. `strategy` is how its devices
        share the work best, where that is known. Raises Crashed, and Infeasible when its devices
        cannot share it.
        """
        request = {
            "job": "measure",
            "source": _source(experiment),
            "artifacts": [str(artifact)],
            "strategies": {str(artifact): strategy} if strategy else {},
            "names": list(names),
            "split": split,
            "data": str(data),
        }
        goals = [g for g in experiment.objectives if g.name in names]
        return self._repeated(request, goals, limit, known)

    def recorded(self, artifact: Path, task: Path | None, *, split: str, data: Path) -> Measured:
        """Return the measurements that an artifact's manifest names; `task` is the task's file.

        Raises what `measure` raises.
        """
        goals = Subject.recorded(artifact, task).objectives
        request = {
            "job": "measure",
            "source": {"artifact": str(artifact)} | ({"task": str(task.resolve())} if task else {}),
            "artifacts": [str(artifact)],
            "strategies": {},
            "names": [g.name for g in goals],
            "split": split,
            "data": str(data),
        }
        return self._repeated(request, goals, worker.PROCESSES, None)

    def _repeated(
        self, request: dict[str, Any], goals: Sequence[Goal], limit: int, known: Measured | None
    ) -> Measured:
        """Return what one process finds, with the times of further ones as long as they load fast.

        Only times are taken again: what a file or a score is does not depend on the process.
        """
        measured = known or _joined(goals, None, self._ask(**request | {"share": None}))
        if names := list(timed(goals)):
            if strategy := measured.placement.get("strategy"):
                request["strategies"] = dict.fromkeys(request["artifacts"], strategy)
            further = request | {"names": names, "share": measured.share}
            while measured.processes < limit and not measured.complete:
                measured = _joined(goals, measured, self._ask(**further))
        return measured

    def interleave(
        self,
        experiment: Experiment,
        artifacts: Mapping[Path, str | None],
        *,
        rounds: int,
        data: Path,
    ) -> tuple[dict[str, dict[str, Measurement]], int]:
        """Return new times of artifacts measured in turns, and in how many processes.

        Each process loads all of them and does its part of the rounds. `artifacts` come with the
        strategies that their devices use, None where there is none.
        """
        objectives = timed(experiment.objectives)
        if not objectives:
            return {str(a): {} for a in artifacts}, 0
        answers: list[dict[str, Any]] = []
        share = None
        while share is None or len(answers) < share:
            answers.append(
                self._ask(
                    job="interleave",
                    source=_source(experiment),
                    artifacts=[str(a) for a in artifacts],
                    strategies={str(a): s for a, s in artifacts.items() if s},
                    process=len(answers),
                    share=share,
                    rounds=rounds,
                    data=str(data),
                )
            )
            share = int(answers[0]["share"])
        device = experiment.target.device
        values = {
            str(a): {
                name: objective.summary([n["times"][str(a)][name] for n in answers], device)
                for name, objective in objectives.items()
            }
            for a in artifacts
        }
        return values, len(answers)

    def layers(
        self, experiment: Experiment, artifacts: Mapping[Path, Alone]
    ) -> dict[Path, dict[str, float]]:
        """Return the milliseconds of artifacts of one layer each, timed in turns: layer_times.

        Raises Crashed when they cannot be measured.
        """
        answer = self._ask(
            job="layers",
            artifacts=[str(a) for a in artifacts],
            layers=[encode(layer) for layer in artifacts.values()],
            source=_source(experiment),
        )
        return dict(zip(artifacts, answer["times"], strict=True))

    def close(self) -> None:
        """End the server."""
        self._connection.close()
        self._server.kill()  # it holds a copy of our end, so that it would wait for ever
        self._server.join()

    def _ask(self, **request: Any) -> dict[str, Any]:
        processes.send(self._connection, request)
        try:
            answer = processes.receive(self._connection)
        except EOFError as error:
            raise Crashed("the measuring server ended unexpectedly") from error
        if "infeasible" in answer:
            raise Infeasible(answer["infeasible"])
        if "error" in answer:
            if self._traces:
                print(answer.get("trace", ""), file=sys.stderr)
            raise Crashed(answer["error"])
        return dict(answer["result"])


def _source(experiment: Experiment) -> dict[str, Any]:
    return {"experiment": experiment.to_json(), "folder": str(experiment.folder)}


def _joined(goals: Sequence[Goal], known: Measured | None, answer: dict[str, Any]) -> Measured:
    """Return what is known with one more process' answer; times are summarised anew."""
    measurements = {name: Measurement(**fields) for name, fields in answer["measurements"].items()}
    times = {k: ((*known.times[k], v) if known else (v,)) for k, v in answer["times"].items()}
    measurements |= {
        name: objective.summary(times[name], answer["device"])
        for name, objective in timed(goals).items()
        if name in times
    }
    if known:
        measurements = known.measurements | measurements
    return Measured(
        measurements={g.name: measurements[g.name] for g in goals},
        placement=known.placement if known else answer["placement"],
        conditions=answer["conditions"],
        times=times,
        share=known.share if known else answer["share"],
    )


def _serve(connection: Connection, kind: str) -> None:
    """Answer requests until the other end closes; a crash costs one answer."""
    processes.die_with_parent()
    context = _context(kind)
    while True:
        try:
            request = processes.receive(connection)
        except (EOFError, OSError):
            return
        ours, theirs = context.Pipe()
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "This process .* is multi-threaded", DeprecationWarning
            )
            process = context.Process(target=_work, args=(theirs, request), name="measurement")
            process.start()
        theirs.close()
        try:
            answer = processes.receive(ours)
        except EOFError:
            process.join()
            how = processes.ending(process.exitcode)
            answer = {"error": f"the runtime crashed while measuring: its process {how}"}
        process.join()
        processes.send(connection, answer)


def _work(connection: Connection, request: dict[str, Any]) -> None:
    """Do one measurement and send the answer: the boundary where a measurement fails."""
    processes.die_with_parent()
    try:
        answer: dict[str, Any] = {"result": worker.do(request)}
    except Infeasible as error:
        answer = {"infeasible": str(error)}
    except Exception as error:
        answer = {"error": said(error), "trace": traceback.format_exc()}
    processes.send(connection, answer)


def _context(kind: str) -> Any:
    return multiprocessing.get_context(kind)
