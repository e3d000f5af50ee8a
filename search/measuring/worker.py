"""Measure artifacts in the current process, which the server has forked for it."""

import contextlib
import dataclasses
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from objectives import (
    Examples,
    Measurement,
    Program,
    Target,
    TimedObjective,
    Turns,
    artifacts,
    cached,
    in_turns,
)
from objectives.artifacts import Altered, placement_of
from objectives.host import exclusive, others, pin
from objectives.roofline import renewed
from search.errors import BadArtifact
from search.experiment import Goal, timed
from search.measuring import asking, layer_times
from search.measuring.subject import Subject, checked, runtime_of
from spaces import Placement, decode
from spaces.devices import device_of

PROCESSES = 6
"""Most processes in which an artifact is timed: see `num_processes`."""
COARSE = 0.1
"""Half width of an interval, as a share of the value, beyond which more processes than planned time
artifacts in turns: those of a front are compared by nothing else."""
ENOUGH = 3
"""Processes that are enough if their times agree."""
PROBING = 2
"""Processes that time an artifact before it is known whether the trial goes on."""
PRECISION = 0.02
"""Half the width of a time's 95 % interval, as a share, at which no further process is needed."""
LOADING = 2.0
"""Seconds of loading an artifact, summed over processes, after which no further process loads
it."""
TURNS_SECONDS = 0.4
"""Seconds of turns for each artifact that is confirmed, summed over processes."""


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request of the server; request and answer are plain data."""
    subject = Subject.of(request["source"])
    artifacts = [Path(a) for a in request["artifacts"]]
    use_target_cores(subject.target, max((placement(a).count for a in artifacts), default=1))
    if request["job"] == "ceilings":
        with exclusive(subject.target.device):
            return renewed(subject.target).to_json()
    if request["job"] == "layers":
        layers = [decode(layer) for layer in request["layers"]]
        return {"times": layer_times.timed(artifacts, layers, subject)}
    data = Path(request["data"])
    strategies = request["strategies"]
    if request["job"] == "interleave":
        examples = cached(subject.task, "validation", data)
        shuffle = random.Random(f"{subject.seed} {request['process']}")
        planned = request["planned_processes"]
        return measure_in_turns(subject, artifacts, examples, strategies, shuffle, planned)
    examples = cached(subject.task, request["split"], data)
    if request["job"] == "execution":
        return {"execution": asking.asked(artifacts[0], subject, examples)}
    goals = [g for g in subject.objectives if g.name in request["names"]]
    strategy = strategies.get(str(artifacts[0]))
    first = request["planned_processes"] is None
    load = load_of_others(subject.target, goals) if first else {}  # it waits for 0.1 s
    reference = Path(request["reference"]) if request["reference"] else None
    result = measure_artifact(
        artifacts[0],
        subject,
        goals,
        examples,
        strategy,
        request["planned_processes"],
        reference=reference,
        reference_strategy=request["reference_strategy"],
    )
    return {
        "measurements": {k: m.to_json() for k, m in result.measurements.items()},
        "times": result.times,
        "reference_times": result.reference_times,
        "planned_processes": result.planned_processes,
        "device": subject.target.device,
        "placement": result.placement,
        "conditions": device_of(subject.target.device).conditions() | load | result.execution,
    }


def load_of_others(target: Target, goals: Sequence[Goal]) -> dict[str, float]:
    """Return the share of a CPU that other processes use, if anything is timed on it."""
    if device_of(target.device).accelerator or not timed(goals):
        return {}
    with exclusive():
        return {"others": round(others(), 2)}


def use_target_cores(target: Target, devices: int) -> None:
    """Restrict this process to the target's cores and threads, before a runtime starts threads.

    The processes of several devices share these cores. Does nothing for accelerators, which are
    timed by their own clocks and may use any cores to prepare their work.
    """
    if device_of(target.device).accelerator:
        return
    pin(target.threads * devices)
    torch.set_num_threads(target.threads)


def placement(artifact: Path) -> Placement:
    """Return the devices of an artifact; raises BadArtifact if it was altered."""
    try:
        return placement_of(artifact)
    except Altered as error:
        raise BadArtifact(str(error)) from error


def open_program(
    artifact: Path, subject: Subject, *, separate: bool = False, strategy: str | None = None
) -> Program:
    """Return an artifact loaded by its runtime; raises BadArtifact if it was altered.

    `separate` loads it in processes of its own. Devices that first try strategies to share the work
    have the host's exclusive lane meanwhile.
    """
    runtime = runtime_of(artifact, subject.folder)
    requested = placement(artifact)
    chooses_strategy = requested.count > 1 and (strategy or requested.strategy) == "auto"
    device = Target(**checked(artifact)["target"]).device
    with exclusive(device) if chooses_strategy else contextlib.nullcontext():
        return artifacts.load(artifact, runtime, subject.task, apart=separate, strategy=strategy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessResult:
    """Result of one measuring process."""

    measurements: dict[str, Measurement]
    times: dict[str, Turns]
    """Observations of the timed objectives in their units, which are not summarised yet."""
    reference_times: dict[str, Turns]
    """Those of the reference, in the same turns; empty without one."""
    planned_processes: int
    """Number of processes that are to time the artifact, including this one."""
    placement: dict[str, Any]
    execution: dict[str, str]
    """Execution mode of the artifact if loading decides it: as a CUDA graph, or the reason
    against."""


def measure_artifact(
    artifact: Path,
    subject: Subject,
    goals: Sequence[Goal],
    examples: Examples,
    strategy: str | None = None,
    planned_processes: int | None = None,
    *,
    reference: Path | None = None,
    reference_strategy: str | None = None,
) -> ProcessResult:
    """Return measurements of the goals, with observations of the timed ones.

    `reference` is an artifact that takes turns with the timed one.

    `planned_processes` is the number of processes that split the timed runs; None in the first
    process, which decides it. Objectives that need processes of their own are measured first, while
    this process has no threads and can still fork. Raises ValueError for an impossible value.
    """
    measurements: dict[str, Measurement] = {}
    times: dict[str, Turns] = {}
    reference_times: dict[str, Turns] = {}
    sharing: dict[str, Any] = {}
    execution: dict[str, str] = {}
    several = placement(artifact).count > 1
    for separate in (True, False):
        group = [g for g in goals if (g.objective.apart or several) is separate]
        if group:
            start = time.perf_counter()
            with open_program(artifact, subject, separate=separate, strategy=strategy) as program:
                loading = time.perf_counter() - start
                planned_processes = planned_processes or num_processes(
                    _loading_time(loading, program.target)
                )
                programs = {"artifact": program}
                with contextlib.ExitStack() as stack:
                    if reference and timed(group):
                        loaded = open_program(
                            reference, subject, separate=separate, strategy=reference_strategy
                        )
                        programs["reference"] = stack.enter_context(loaded)
                    for name, objective in timed(group).items():
                        bursts = _observe(programs, objective, examples, 1 / planned_processes)
                        times[name] = bursts["artifact"]
                        if "reference" in bursts:
                            reference_times[name] = bursts["reference"]
                measurements |= {
                    g.name: _measure(program, g, examples) for g in group if not g.timed
                }
                sharing = program.placement() if several else {}
                if mode := program.execution():
                    execution = {"execution": mode}
    return ProcessResult(
        measurements=measurements,
        times=times,
        reference_times=reference_times,
        planned_processes=planned_processes or 1,
        placement=sharing,
        execution=execution,
    )


def _loading_time(loading: float, target: Target) -> float:
    """Return the seconds of loading that determine the number of processes.

    One process is enough for accelerators: their processes take long to start and import, and their
    times differ less between processes.
    """
    return max(loading, LOADING) if device_of(target.device).accelerator else loading


def num_processes(loading: float) -> int:
    """Return the number of processes to time an artifact in, given the first one's loading seconds.

    The first process decides, as it has to know its part of the timed runs.
    """
    return min(PROCESSES, max(1, math.ceil(LOADING / loading)))


def _observe(
    programs: Mapping[str, Program],
    objective: TimedObjective,
    examples: Examples,
    fraction: float,
) -> Mapping[str, Turns]:
    """Return a fraction of an objective's bursts, taken in turns in the host's exclusive lane."""
    device = next(iter(programs.values())).target.device
    with exclusive(device):
        return in_turns(programs, objective, examples, fraction * objective.seconds)


def _measure(program: Program, goal: Goal, examples: Examples) -> Measurement:
    """Return one goal's measurement; raises ValueError if it is not above 0 but must be."""
    measurement = goal.objective.measure(program, examples)
    if goal.objective.positive and measurement.value <= 0:
        raise ValueError(f"{goal.name} must be above 0, measured {measurement.value}")
    return measurement


def measure_in_turns(
    subject: Subject,
    artifacts: Sequence[Path],
    examples: Examples,
    strategies: Mapping[str, str],
    shuffle: random.Random,
    planned_processes: int | None = None,
) -> dict[str, Any]:
    """Return the times of each artifact in this process' turns, one value a turn.

    If one artifact is on several devices, all run in processes of their own and are timed there.
    `planned_processes` is the number of processes that split the turns; None in the first process,
    which decides it.
    """
    objectives = timed(subject.objectives)
    several = any(placement(artifact).count > 1 for artifact in artifacts)
    order = list(artifacts)
    shuffle.shuffle(order)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        programs = {}
        for artifact in order:
            strategy = strategies.get(str(artifact))
            program = open_program(artifact, subject, separate=several, strategy=strategy)
            programs[str(artifact)] = stack.enter_context(program)
        loading = (time.perf_counter() - start) / len(artifacts)
        planned_processes = planned_processes or num_processes(
            _loading_time(loading, subject.target)
        )
        stack.enter_context(exclusive(subject.target.device))
        seconds = TURNS_SECONDS * len(artifacts) / planned_processes
        bursts = {
            name: in_turns(programs, objective, examples, seconds)
            for name, objective in objectives.items()
        }
    times = {str(a): {name: bursts[name][str(a)] for name in objectives} for a in artifacts}
    return {"times": times, "planned_processes": planned_processes}
