"""What a measuring process does: load artifacts by their runtimes and measure them."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from objectives import Measurement, Program, Target
from objectives._artifact import Altered, load, manifest_of
from objectives._data import Examples, cached
from objectives._lane import exclusive, pin
from objectives.latency import Latency
from objectives.runtimes._runtime import Runtime
from search import catalogue
from search.errors import BadArtifact
from search.experiment import Experiment, Goal
from spaces import Task

ROUND_SECONDS = 0.25
"""Timed runs of one artifact before it is the next one's turn."""


def do(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request of the lane; everything in and out is plain data."""
    experiment = Experiment.parse(request["text"], Path(request["folder"]))
    settle(experiment.target)
    data = Path(request["data"])
    if request["job"] == "interleave":
        examples = cached(experiment.task, "validation", data)
        artifacts = [Path(a) for a in request["artifacts"]]
        return interleaved(experiment, artifacts, examples, request["rounds"])
    examples = cached(experiment.task, request["split"], data)
    goals = [g for g in experiment.goals if g.name in request["names"]]
    program = opened(Path(request["artifact"]), experiment.task)
    return {name: m.to_json() for name, m in measured(program, goals, examples).items()}


def settle(target: Target) -> None:
    """Give this process the cores and threads of the target, before a runtime starts its own."""
    pin(target.threads)
    torch.set_num_threads(target.threads)


def checked(artifact: Path) -> dict[str, Any]:
    """Return an artifact's manifest; raises BadArtifact when its files were altered."""
    try:
        return manifest_of(artifact)
    except Altered as error:
        raise BadArtifact(str(error)) from error


def opened(artifact: Path, task: Task) -> Program:
    """Return an artifact loaded by its runtime; raises BadArtifact when it was altered."""
    name = checked(artifact)["runtime"]
    return load(artifact, catalogue.find("objectives.runtimes", name, Runtime)(), task)


def measured(program: Program, goals: Sequence[Goal], examples: Examples) -> dict[str, Measurement]:
    """Return the goals' measurements; whatever is timed has the host's lane to itself.

    Raises ValueError where a value is impossible, such as a latency of zero.
    """
    found = {}
    for goal in goals:
        if isinstance(goal.objective, Latency):
            with exclusive(program.target.device):
                found[goal.name] = goal.objective.measure(program, examples)
        else:
            found[goal.name] = goal.objective.measure(program, examples)
        if goal.objective.positive and found[goal.name].value <= 0:
            raise ValueError(f"{goal.name} must be above 0, measured {found[goal.name].value}")
    return found


def interleaved(
    experiment: Experiment, artifacts: Sequence[Path], examples: Examples, rounds: int
) -> dict[str, Any]:
    """Return each artifact's latency over `rounds` rounds in which all take turns.

    In turns, and in another order every round, a disturbance of the machine meets all alike, so
    that their ratios hold even where their values drift.
    """
    goals = [g for g in experiment.goals if isinstance(g.objective, Latency)]
    found: dict[str, Any] = {str(artifact): {} for artifact in artifacts}
    if not goals:
        return found
    objective = goals[0].objective
    assert isinstance(objective, Latency)
    programs = {str(a): opened(a, experiment.task) for a in artifacts}
    times: dict[str, list[float]] = {name: [] for name in programs}
    order = list(programs)
    shuffle = random.Random(experiment.seed)
    with exclusive(experiment.target.device):
        for _ in range(rounds):
            shuffle.shuffle(order)
            for name in order:
                times[name] += objective.times(programs[name], examples, ROUND_SECONDS)
    return {name: {goals[0].name: objective.summary(t).to_json()} for name, t in times.items()}
