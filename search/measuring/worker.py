"""What a measuring process does: load artifacts by their runtimes and measure them."""

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
    artifacts,
    cached,
)
from objectives.artifacts import Altered, placement_of
from objectives.host import exclusive, others, pin
from search.errors import BadArtifact
from search.experiment import Goal, timed
from search.measuring import layer_times
from search.measuring.subject import Subject, checked, runtime_of
from spaces import Placement, decode
from spaces.devices import device_of

PROCESSES = 3
"""Processes in which an artifact is timed at most: see `shared`."""
LOADING = 2.0
"""Seconds of loading an artifact, all processes together, after which it is in no further one."""
ROUND_SECONDS = 0.2
"""Timed runs of one artifact before it is the next one's turn."""


def do(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request of the lane; everything in and out is plain data."""
    subject = Subject.of(request["source"])
    artifacts = [Path(a) for a in request["artifacts"]]
    settle(subject.target, max(placement(a).count for a in artifacts))
    if request["job"] == "layers":
        layers = [decode(layer) for layer in request["layers"]]
        return {"times": layer_times.timed(artifacts, layers, subject)}
    data = Path(request["data"])
    strategies = request["strategies"]
    if request["job"] == "interleave":
        examples = cached(subject.task, "validation", data)
        shuffle = random.Random(f"{subject.seed} {request['process']}")
        rounds, share = request["rounds"], request["share"]
        return interleaved(subject, artifacts, examples, rounds, strategies, shuffle, share)
    examples = cached(subject.task, request["split"], data)
    goals = [g for g in subject.objectives if g.name in request["names"]]
    strategy = strategies.get(str(artifacts[0]))
    beside = load_beside(subject.target, goals)
    found = measured(artifacts[0], subject, goals, examples, strategy, request["share"])
    return {
        "measurements": {k: m.to_json() for k, m in found.measurements.items()},
        "times": found.times,
        "share": found.share,
        "device": subject.target.device,
        "placement": found.placement,
        "conditions": device_of(subject.target.device).conditions() | beside | found.execution,
    }


def load_beside(target: Target, goals: Sequence[Goal]) -> dict[str, float]:
    """Return how busy a CPU is with others, where something is about to be timed on it."""
    if device_of(target.device).accelerator or not timed(goals):
        return {}
    with exclusive():
        return {"others": round(others(), 2)}


def settle(target: Target, devices: int) -> None:
    """Give this process the cores and threads of the target, before a runtime starts its own.

    Processes that it starts for several devices have those cores between them. Where accelerators
    compute, their clocks are read, and whatever cores there are prepare the work.
    """
    if device_of(target.device).accelerator:
        return
    pin(target.threads * devices)
    torch.set_num_threads(target.threads)


def placement(artifact: Path) -> Placement:
    """Return on how many devices an artifact runs; raises BadArtifact when it is none."""
    try:
        return placement_of(artifact)
    except Altered as error:
        raise BadArtifact(str(error)) from error


def opened(
    artifact: Path, subject: Subject, *, apart: bool = False, strategy: str | None = None
) -> Program:
    """Return an artifact loaded by its runtime; raises BadArtifact when it was altered.

    Where devices first try how to share the work they have the host's lane to themselves.
    """
    runtime = runtime_of(artifact, subject.folder)
    asked = placement(artifact)
    tries = asked.count > 1 and (strategy or asked.strategy) == "auto"
    device = Target(**checked(artifact)["target"]).device
    with exclusive(device) if tries else contextlib.nullcontext():
        return artifacts.load(artifact, runtime, subject.task, apart=apart, strategy=strategy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taken:
    """What one process found out about an artifact."""

    measurements: dict[str, Measurement]
    times: dict[str, list[float]]
    """Observations of what is timed, in the objectives' units: not yet measurements."""
    share: int
    """In how many processes it is to be timed, this one included."""
    placement: dict[str, Any]
    execution: dict[str, str]
    """How it was executed where loading decides that: as a CUDA graph, or why not."""


def measured(
    artifact: Path,
    subject: Subject,
    goals: Sequence[Goal],
    examples: Examples,
    strategy: str | None = None,
    share: int | None = None,
) -> Taken:
    """Return the goals' measurements, observations of what is timed, and how devices shared it.

    Of the timed runs one process does its part: `share` says of how many, None in the first one.
    What is measured in a process of its own comes first: as long as this one has no threads
    it can fork. Raises ValueError where a value is impossible.
    """
    found: dict[str, Measurement] = {}
    times: dict[str, list[float]] = {}
    placed: dict[str, Any] = {}
    execution: dict[str, str] = {}
    several = placement(artifact).count > 1
    for apart in (True, False):
        chosen = [g for g in goals if (g.objective.apart or several) is apart]
        if chosen:
            start = time.perf_counter()
            with opened(artifact, subject, apart=apart, strategy=strategy) as program:
                taken = time.perf_counter() - start
                share = share or shared(_charged(taken, program.target))
                for name, objective in timed(chosen).items():
                    times[name] = _times(program, objective, examples, 1 / share)
                found |= {g.name: _value(program, g, examples) for g in chosen if not g.timed}
                placed = program.placement() if several else {}
                if how := program.execution():
                    execution = {"execution": how}
    return Taken(
        measurements=found,
        times=times,
        share=share or 1,
        placement=placed,
        execution=execution,
    )


def _charged(loading: float, target: Target) -> float:
    """Return the seconds of loading that decide about further processes.

    Those of accelerators start them and import what the user imports: one has to do, and times of
    accelerators differ less from process to process.
    """
    return max(loading, LOADING) if device_of(target.device).accelerator else loading


def shared(loading: float) -> int:
    """Return in how many processes an artifact is timed whose first one took `loading` s to load.

    The first one decides, since it has to know which part of the timed runs is its own.
    """
    return min(PROCESSES, max(1, math.ceil(LOADING / loading)))


def _times(
    program: Program, objective: TimedObjective, examples: Examples, part: float
) -> list[float]:
    """Return a part of an objective's observations, with the host's lane to itself."""
    with exclusive(program.target.device):
        return objective.observe(program, examples, part * objective.seconds)


def _value(program: Program, goal: Goal, examples: Examples) -> Measurement:
    """Return one goal's measurement."""
    found = goal.objective.measure(program, examples)
    if goal.objective.positive and found.value <= 0:
        raise ValueError(f"{goal.name} must be above 0, measured {found.value}")
    return found


def interleaved(
    subject: Subject,
    artifacts: Sequence[Path],
    examples: Examples,
    rounds: int,
    strategies: Mapping[str, str],
    shuffle: random.Random,
    share: int | None = None,
) -> dict[str, Any]:
    """Return what is timed of each artifact in this process' rounds, in which all take turns.

    In turns, and in another order every round, a disturbance of the machine meets all alike, so
    that their ratios hold even where their values drift. If one of them is on several devices,
    all run in processes of their own, and each is timed there. Of `rounds` a process does its
    part: `share` says of how many, None in the first one.
    """
    objectives = timed(subject.objectives)
    names = [str(artifact) for artifact in artifacts]
    several = any(placement(artifact).count > 1 for artifact in artifacts)
    seen: dict[str, dict[str, list[float]]] = {n: {o: [] for o in objectives} for n in names}
    order = list(names)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        programs = {}
        for artifact in artifacts:
            strategy = strategies.get(str(artifact))
            program = opened(artifact, subject, apart=several, strategy=strategy)
            programs[str(artifact)] = stack.enter_context(program)
        taken = (time.perf_counter() - start) / len(artifacts)
        share = share or shared(_charged(taken, subject.target))
        stack.enter_context(exclusive(subject.target.device))
        for _ in range(max(1, round(rounds / share))):
            shuffle.shuffle(order)
            for name in order:
                for key, objective in objectives.items():
                    seen[name][key] += objective.observe(programs[name], examples, ROUND_SECONDS)
    return {"times": seen, "share": share}
