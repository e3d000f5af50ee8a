"""What a measuring process does: load artifacts by their runtimes and measure them."""

import contextlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from objectives import Measurement, Program, Target
from objectives._artifact import Altered, load, manifest_of, placement_of
from objectives._data import Examples, cached
from objectives._lane import exclusive, others, pin
from objectives.runtimes._cuda import conditions as gpu_conditions
from objectives.runtimes._runtime import Runtime
from search import catalogue
from search.errors import BadArtifact
from search.experiment import Experiment, Goal
from spaces import Placement, Task

ROUND_SECONDS = 0.25
"""Timed runs of one artifact before it is the next one's turn."""


def do(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request of the lane; everything in and out is plain data."""
    experiment = Experiment.parse(request["text"], Path(request["folder"]))
    data = Path(request["data"])
    artifacts = [Path(a) for a in request["artifacts"]]
    settle(experiment.target, max(placement(a).count for a in artifacts))
    strategies = request["strategies"]
    if request["job"] == "interleave":
        examples = cached(experiment.task, "validation", data)
        return interleaved(experiment, artifacts, examples, request["rounds"], strategies)
    examples = cached(experiment.task, request["split"], data)
    goals = [g for g in experiment.goals if g.name in request["names"]]
    beside = load_beside(experiment.target, goals)
    found, placed = measured(
        artifacts[0], experiment.task, goals, examples, strategies.get(str(artifacts[0]))
    )
    return {
        "measurements": {k: m.to_json() for k, m in found.items()},
        "placement": placed,
        "conditions": conditions(experiment.target) | beside,
    }


def conditions(target: Target) -> dict[str, Any]:
    """Return what the target's GPU is and does now; nothing on a CPU."""
    return gpu_conditions() if target.device == "cuda" else {}


def load_beside(target: Target, goals: Sequence[Goal]) -> dict[str, float]:
    """Return how busy a CPU is with others, where something is about to be timed on it."""
    if target.device != "cpu" or not any(g.objective.timed for g in goals):
        return {}
    with exclusive():
        return {"others": round(others(), 2)}


def settle(target: Target, devices: int) -> None:
    """Give this process the cores and threads of the target, before a runtime starts its own.

    Processes that it starts for several devices have those cores between them. Where GPUs compute,
    their clocks are read, and whatever cores there are prepare the work.
    """
    if target.device != "cpu":
        return
    pin(target.threads * devices)
    torch.set_num_threads(target.threads)


def checked(artifact: Path) -> dict[str, Any]:
    """Return an artifact's manifest; raises BadArtifact when its files were altered."""
    try:
        return manifest_of(artifact)
    except Altered as error:
        raise BadArtifact(str(error)) from error


def placement(artifact: Path) -> Placement:
    """Return on how many devices an artifact runs; raises BadArtifact when it is none."""
    try:
        return placement_of(artifact)
    except Altered as error:
        raise BadArtifact(str(error)) from error


def opened(
    artifact: Path, task: Task, *, apart: bool = False, strategy: str | None = None
) -> Program:
    """Return an artifact loaded by its runtime; raises BadArtifact when it was altered.

    Where devices first try how to share the work they have the host's lane to themselves.
    """
    runtime = catalogue.find("objectives.runtimes", checked(artifact)["runtime"], Runtime)()
    asked = placement(artifact)
    tries = asked.count > 1 and (strategy or asked.strategy) == "auto"
    device = Target(**checked(artifact)["target"]).device
    with exclusive(device) if tries else contextlib.nullcontext():
        return load(artifact, runtime, task, apart=apart, strategy=strategy)


def measured(
    artifact: Path,
    task: Task,
    goals: Sequence[Goal],
    examples: Examples,
    strategy: str | None = None,
) -> tuple[dict[str, Measurement], dict[str, Any]]:
    """Return the goals' measurements, and how several devices shared the work.

    What is measured in a process of its own comes first: as long as this one has no threads
    it can fork. Raises ValueError where a value is impossible, such as a latency of zero.
    """
    found: dict[str, Measurement] = {}
    placed: dict[str, Any] = {}
    several = placement(artifact).count > 1
    for apart in (True, False):
        chosen = [g for g in goals if (g.objective.apart or several) is apart]
        if chosen:
            with opened(artifact, task, apart=apart, strategy=strategy) as program:
                found |= {g.name: _value(program, g, examples) for g in chosen}
                placed = program.placement() if several else {}
    return {g.name: found[g.name] for g in goals}, placed


def _value(program: Program, goal: Goal, examples: Examples) -> Measurement:
    """Return one goal's measurement; whatever is timed has the host's lane to itself."""
    with exclusive(program.target.device) if goal.objective.timed else contextlib.nullcontext():
        found = goal.objective.measure(program, examples)
    if goal.objective.positive and found.value <= 0:
        raise ValueError(f"{goal.name} must be above 0, measured {found.value}")
    return found


def interleaved(
    experiment: Experiment,
    artifacts: Sequence[Path],
    examples: Examples,
    rounds: int,
    strategies: Mapping[str, str],
) -> dict[str, Any]:
    """Return what is timed of each artifact over `rounds` rounds in which all take turns.

    In turns, and in another order every round, a disturbance of the machine meets all alike, so
    that their ratios hold even where their values drift. If one of them is on several devices,
    all run in processes of their own, and each is timed there.
    """
    goals = [g for g in experiment.goals if g.objective.timed]
    names = [str(artifact) for artifact in artifacts]
    if not goals:
        return {name: {} for name in names}
    several = any(placement(artifact).count > 1 for artifact in artifacts)
    seen: dict[str, dict[str, list[float]]] = {n: {g.name: [] for g in goals} for n in names}
    shuffle = random.Random(experiment.seed)
    order = list(names)
    with contextlib.ExitStack() as stack:
        programs = {}
        for artifact in artifacts:
            strategy = strategies.get(str(artifact))
            program = opened(artifact, experiment.task, apart=several, strategy=strategy)
            programs[str(artifact)] = stack.enter_context(program)
        stack.enter_context(exclusive(experiment.target.device))
        for _ in range(rounds):
            shuffle.shuffle(order)
            for name in order:
                for goal in goals:
                    times = goal.objective.observe(programs[name], examples, ROUND_SECONDS)
                    seen[name][goal.name] += times
    return {
        name: {g.name: g.objective.summary(found[g.name]).to_json() for g in goals}
        for name, found in seen.items()
    }
