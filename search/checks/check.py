"""Check an experiment and its task without a trial, and list the first points of its search."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from search.checks.count_points import point_counts
from search.checks.faults import fault
from search.checks.rehearsal import rehearse, run_first_batch
from search.executors import executor_of
from search.experiment import Experiment, kinds_of, refusal_here
from search.study import Front, Start, opening, sampler_of
from spaces import Outputs
from spaces.modules import seeded
from spaces.training import has_classes


def check(experiment: Experiment) -> list[str]:
    """Return findings about an experiment, one line each; raises BadTask or BadExperiment."""
    sampler_of(experiment)
    executor_of(experiment, Path(), 1)
    experiment, model = inspect_model(experiment)
    lines = [f"task      {experiment.task.describe()['name']}: {_weights(model):,} weights"]
    lines += rehearse(experiment, model)
    lines += _points(experiment, kinds_of(model))
    lines += [f"note      {notice}" for notice in experiment.notices]
    return [*lines, "ok"]


def plan(experiment: Experiment, source: Front | None = None) -> list[str]:
    """Return the budget, the space and the first points of a search, without running a trial.

    `source` is the front of another run from which the search starts.
    """
    experiment, model = inspect_model(experiment)
    kinds = kinds_of(model)
    lines = [f"{experiment.name}: {experiment.trials} trials, seed {experiment.seed}"]
    lines += _points(experiment, kinds)
    start = Start.of(experiment, *source) if source else None
    lines += [start.told] if start else []
    lines.append("first points:")
    for point in opening(experiment, given=start.points if start else ()):
        reason = refusal_here(experiment, experiment.space.plan(point), kinds)
        runtime = experiment.space.plan(point).runtime
        lines.append(f"  {runtime:<12} {experiment.space.short(point):<44} {reason or ''}".rstrip())
    return [*lines, "then points where the sampler expects to extend the front"]


def inspect_model(experiment: Experiment) -> tuple[Experiment, nn.Module]:
    """Load the model of a task; return the experiment with the facts it needs of it, and the model.

    The returned space knows the model's kind of outputs, so that no trial is spent on a dimension
    without effect on them. The model is in float32. Raises BadTask if the user's code fails.
    """
    task = experiment.task
    try:
        with seeded(experiment.seed):  # alike at each start, also without trained weights
            model = task.given()
    except Exception as error:
        raise fault(task, "model()", error) from error
    try:
        told = task.notices()
    except Exception as error:
        raise fault(task, "notices()", error) from error
    notices = (*experiment.notices, *told, *_precision(model))
    model = model.float()
    space = dataclasses.replace(experiment.space, outputs=_outputs(experiment, model))
    return dataclasses.replace(experiment, space=space, notices=notices), model


def _precision(model: nn.Module) -> Iterator[str]:
    """Yield a notice if the model is not in float32, the type in which it will be deployed."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if types:
        names = " and ".join(sorted(str(t).removeprefix("torch.") for t in types))
        yield (
            f"the model comes in {names}: it is compared, searched and deployed in float32, and so "
            "are its inputs"
        )


def _outputs(experiment: Experiment, model: nn.Module) -> Outputs:
    """Return the kind of outputs, as the first batch of the validation split shows it."""
    _, outputs, _ = run_first_batch(experiment, model, "validation", experiment.target.batch_size)
    return Outputs(classes=has_classes(outputs))


def _points(experiment: Experiment, kinds: frozenset[str]) -> list[str]:
    return point_counts(
        experiment, lambda p: refusal_here(experiment, experiment.space.plan(p), kinds)
    )


def _weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
