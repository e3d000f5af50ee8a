"""Server that measures artifacts in fresh processes, forked from one that has imported libraries.

A forked process has no model, no thread pool and no warm cache of the trial, and need not import
anything: importing torch takes longer than most measurements.
"""

import dataclasses
import itertools
import multiprocessing
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from objectives import Execution, Measurement, Turns
from objectives.roofline import Ceilings
from search.experiment import Experiment, Goal, timed
from search.measuring import worker
from search.measuring.reference import Reference
from search.measuring.subject import Subject
from spaces import Alone, Infeasible, encode, processes, said

Job = Callable[[dict[str, Any]], dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtifactMeasurements:
    """Measurements of an artifact, from one or more processes."""

    measurements: dict[str, Measurement]
    placement: dict[str, Any]
    """Strategy by which several devices shared the work, and the reason for it; empty with one."""
    conditions: dict[str, Any]
    """State of the target's device: name, clocks and other processes of a GPU; load by others of a
    CPU."""
    times: dict[str, tuple[Turns, ...]]
    """Observations of each process, by timed objective."""
    reference_times: dict[str, tuple[Turns, ...]]
    """Those of the reference in the same turns; empty without one."""
    planned_processes: int
    """Number of processes that are to time the artifact, decided by the first one's time of
    loading."""

    @property
    def processes(self) -> int:
        """Number of processes that have timed the artifact; 0 if nothing is timed."""
        return max(map(len, self.times.values()), default=0)

    @property
    def complete(self) -> bool:
        """True if the times are precise, or all planned processes have timed the artifact."""
        timed = [self.measurements[name] for name in self.times]
        return self.processes >= self.planned_processes or _precise(timed, self.processes)

    @property
    def precision(self) -> float | None:
        """Half the width of the widest interval of a time, as a share of it; None without times."""
        return max((self.measurements[name].half_width for name in self.times), default=None)


class Crashed(Exception):
    """A measuring process ended without an answer, or failed; the message is the reason."""


class MeasurementServer:
    """A server process that measures artifacts one at a time, each in a process of its own."""

    def __init__(self, *, print_traces: bool = True) -> None:
        """Start the server; with `print_traces`, tracebacks of failures go to stderr."""
        self._print_traces = print_traces
        kind = "fork" if sys.platform == "linux" else "spawn"
        self._context = _context(kind)
        self._connection, theirs = self._context.Pipe()
        with warnings.catch_warnings():
            # It warns of NumPy's idle threads, which NumPy's own handlers make safe to fork.
            warnings.filterwarnings(
                "ignore", "This process .* is multi-threaded", DeprecationWarning
            )
            self._server = self._context.Process(
                target=_serve, args=(theirs, kind), daemon=False, name="server"
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
        known: ArtifactMeasurements | None = None,
        reference: Reference | None = None,
    ) -> ArtifactMeasurements:
        """Return the measurements of an artifact, loaded afresh.

        It is timed in up to `limit` fresh processes, run one after another. Processes in `known`
        count towards that limit, and their times are kept. `strategy` is the best strategy for its
        devices to share the work, if known. With a `reference`, timed objectives are measured in
        turns with it, and their values are the ratio times that of the reference. Raises Crashed,
        or Infeasible if its devices cannot share it.
        """
        request = {
            "job": "measure",
            "source": _source(experiment),
            "artifacts": [str(artifact)],
            "strategies": {str(artifact): strategy} if strategy else {},
            "names": list(names),
            "split": split,
            "data": str(data),
            "reference": str(reference.artifact) if reference else None,
            "reference_strategy": reference.strategy if reference else None,
        }
        goals = [g for g in experiment.objectives if g.name in names]
        return self._measure_in_processes(request, goals, limit, known, reference)

    def recorded(
        self, artifact: Path, task: Path | None, *, split: str, data: Path
    ) -> ArtifactMeasurements:
        """Return measurements of the objectives in an artifact's manifest.

        `task` is the task's file, if it was moved. Raises the errors of `measure`.
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
            "reference": None,
            "reference_strategy": None,
        }
        return self._measure_in_processes(request, goals, worker.PROCESSES, None, None)

    def _measure_in_processes(
        self,
        request: dict[str, Any],
        goals: Sequence[Goal],
        limit: int,
        known: ArtifactMeasurements | None,
        reference: Reference | None,
    ) -> ArtifactMeasurements:
        """Return the measurements of one process, with times from further ones if they load fast.

        Only times are measured again, as sizes and scores do not depend on the process.
        """
        measured = known or _add_process(
            goals, None, self._call(**request | {"planned_processes": None}), reference
        )
        if names := list(timed(goals)):
            if strategy := measured.placement.get("strategy"):
                request["strategies"] = dict.fromkeys(request["artifacts"], strategy)
            further = request | {"names": names, "planned_processes": measured.planned_processes}
            while measured.processes < limit and not measured.complete:
                measured = _add_process(goals, measured, self._call(**further), reference)
        return measured

    def interleave(
        self,
        experiment: Experiment,
        artifacts: Mapping[Path, str | None],
        *,
        values: Mapping[str, float],
        data: Path,
    ) -> tuple[dict[str, dict[str, Measurement]], int]:
        """Return times of artifacts measured in turns, and the number of processes.

        Each process loads all artifacts and does its part of the turns; there are no more of them
        once all times are precise. `artifacts` maps each path
        to the strategy of its devices, or None; ratios are those to the first one, whose `values`
        by objective are given. Raises Crashed or Infeasible.
        """
        objectives = timed(experiment.objectives)
        if not objectives:
            return {str(a): {} for a in artifacts}, 0
        measurements: dict[str, dict[str, Measurement]] = {}
        for answers in self._turns(experiment, artifacts, data):
            measurements = _interleaved(experiment, [str(a) for a in artifacts], answers, values)
            if _settled([m for found in measurements.values() for m in found.values()], answers):
                break
        return measurements, len(answers)

    def chain(
        self, experiment: Experiment, artifacts: Sequence[Path], *, data: Path
    ) -> list[dict[str, Measurement]]:
        """Return the ratio of each artifact but the first to the one before it, by objective.

        All take turns in the same processes, of which there are no more once all ratios are
        precise. Raises Crashed or Infeasible.
        """
        ratios: list[dict[str, Measurement]] = []
        for answers in self._turns(experiment, dict.fromkeys(artifacts), data):
            ratios = [
                _interleaved(experiment, [str(before), str(after)], answers)[str(after)]
                for before, after in itertools.pairwise(artifacts)
            ]
            if _settled([m for ratio in ratios for m in ratio.values()], answers):
                break
        return ratios

    def _turns(
        self, experiment: Experiment, artifacts: Mapping[Path, str | None], data: Path
    ) -> Iterator[list[dict[str, Any]]]:
        """Time artifacts in turns in one process after another; yield the answers so far.

        There are more of them than planned if the caller goes on, where times are still coarse.
        """
        answers: list[dict[str, Any]] = []
        planned_processes = None
        while len(answers) < worker.PROCESSES:
            answers.append(
                self._call(
                    job="interleave",
                    source=_source(experiment),
                    artifacts=[str(a) for a in artifacts],
                    strategies={str(a): s for a, s in artifacts.items() if s},
                    process=len(answers),
                    planned_processes=planned_processes,
                    data=str(data),
                )
            )
            planned_processes = int(answers[0]["planned_processes"])
            yield answers

    def layers(
        self, experiment: Experiment, artifacts: Mapping[Path, Alone]
    ) -> dict[Path, dict[str, float]]:
        """Return the milliseconds of artifacts of single layers, timed in turns: see `layer_times`.

        Raises Crashed if they cannot be measured.
        """
        answer = self._call(
            job="layers",
            artifacts=[str(a) for a in artifacts],
            layers=[encode(layer) for layer in artifacts.values()],
            source=_source(experiment),
        )
        return dict(zip(artifacts, answer["times"], strict=True))

    def ceilings(self, experiment: Experiment) -> Ceilings:
        """Return the highest rates of the target's device, measured once a host.

        Raises Crashed if they cannot be measured.
        """
        answer = self._call(job="ceilings", artifacts=[], source=_source(experiment))
        return Ceilings.from_json(answer)

    def execution(self, experiment: Experiment, artifact: Path, *, data: Path) -> Execution | None:
        """Return what an artifact executes, or None if its runtime does not say.

        Its runtime is asked in a fresh process, as its profiler must not disturb what is timed.
        Raises Crashed.
        """
        answer = self._call(
            job="execution",
            source=_source(experiment),
            artifacts=[str(artifact)],
            strategies={},
            split="validation",
            data=str(data),
        )
        return Execution.from_json(answer["execution"]) if answer["execution"] else None

    def close(self) -> None:
        """End the server."""
        self._connection.close()
        self._server.kill()  # it has a copy of our end of the pipe, and would wait forever
        self._server.join()

    def _call(self, **request: Any) -> dict[str, Any]:
        processes.send(self._connection, request)
        try:
            answer = processes.receive(self._connection)
        except EOFError as error:
            raise Crashed("the measuring server ended unexpectedly") from error
        if "infeasible" in answer:
            raise Infeasible(answer["infeasible"])
        if "error" in answer:
            if self._print_traces:
                print(answer.get("trace", ""), file=sys.stderr)
            raise Crashed(answer["error"])
        return dict(answer["result"])


def _interleaved(
    experiment: Experiment,
    artifacts: Sequence[str],
    answers: Sequence[Mapping[str, Any]],
    values: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Measurement]]:
    """Return times of artifacts relative to the first one, whose `values` by objective are given.

    Without `values` they are ratios. Each of `answers` is that of one process.
    """
    first = artifacts[0]
    return {
        artifact: {
            name: objective.relative(
                [answer["times"][artifact][name] for answer in answers],
                [answer["times"][first][name] for answer in answers],
                values[name] if values else 1.0,
                experiment.target.device,
            )
            for name, objective in timed(experiment.objectives).items()
        }
        for artifact in artifacts
    }


def _precise(times: Sequence[Measurement], processes: int) -> bool:
    """True if enough processes have timed, and each interval is within PRECISION of its value."""
    precise = all(m.half_width <= worker.PRECISION for m in times)
    return processes >= worker.ENOUGH and precise


def _settled(times: Sequence[Measurement], answers: Sequence[Mapping[str, Any]]) -> bool:
    """True if no further process is to time in turns.

    Times are precise, or all planned processes have timed and none is coarse.
    """
    count = len(answers)
    coarse = any(m.half_width > worker.COARSE for m in times)
    planned = int(answers[0]["planned_processes"])
    return _precise(times, count) or (count >= planned and not coarse)


def _source(experiment: Experiment) -> dict[str, Any]:
    return {"experiment": experiment.to_json(), "folder": str(experiment.folder)}


def _add_process(
    goals: Sequence[Goal],
    known: ArtifactMeasurements | None,
    answer: dict[str, Any],
    reference: Reference | None,
) -> ArtifactMeasurements:
    """Return the known measurements with one more process' answer; times are summarised anew."""
    measurements = {k: Measurement.from_json(m) for k, m in answer["measurements"].items()}
    times = _appended(known.times if known else {}, answer["times"])
    reference_times = _appended(known.reference_times if known else {}, answer["reference_times"])
    device = answer["device"]
    for name, objective in timed(goals).items():
        if reference and name in reference_times:
            relative = objective.relative(
                times[name], reference_times[name], reference.values[name], device
            )
            measurements[name] = relative.beside(
                reference.baseline_values[name], reference.ratios.get(name)
            )
        elif name in times:
            measurements[name] = objective.summary(times[name], device)
    if known:
        measurements = known.measurements | measurements
    return ArtifactMeasurements(
        measurements={g.name: measurements[g.name] for g in goals},
        placement=known.placement if known else answer["placement"],
        conditions=(known.conditions if known else {}) | answer["conditions"],
        times=times,
        reference_times=reference_times,
        planned_processes=known.planned_processes if known else answer["planned_processes"],
    )


def _appended(
    known: Mapping[str, tuple[Turns, ...]], times: Mapping[str, Turns]
) -> dict[str, tuple[Turns, ...]]:
    """Return the known times of processes with those of one more."""
    return {name: (*known.get(name, ()), series) for name, series in times.items()}


def _serve(connection: Connection, kind: str) -> None:
    """Answer requests until the other end of the pipe closes; a crash costs one answer."""
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
            ending = processes.ending(process.exitcode)
            answer = {"error": f"the runtime crashed while measuring: its process {ending}"}
        process.join()
        processes.send(connection, answer)


def _work(connection: Connection, request: dict[str, Any]) -> None:
    """Do one measurement and send the answer; this is where any failure of it becomes an answer."""
    processes.die_with_parent()
    try:
        answer: dict[str, Any] = {"result": worker.handle(request)}
    except Infeasible as error:
        answer = {"infeasible": str(error)}
    except Exception as error:
        answer = {"error": said(error), "trace": traceback.format_exc()}
    processes.send(connection, answer)


def _context(kind: str) -> Any:
    return multiprocessing.get_context(kind)
