"""What is found out before any trial: whether an experiment and its task can be used."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from search.checks.count_points import counted
from search.checks.rehearsal import rehearsed, tried
from search.errors import BadTask
from search.experiment import Experiment, kinds_of, refusal_here
from search.study import opening
from spaces import Outputs, said
from spaces.training import has_classes


def check(experiment: Experiment) -> list[str]:
    """Return what was found, a line each; raises BadTask or BadExperiment at the first fault."""
    experiment, model = informed(experiment)
    lines = [f"task      {experiment.task.describe()['name']}: {_weights(model):,} weights"]
    lines += rehearsed(experiment, model)
    lines += _points(experiment, kinds_of(model))
    lines += [f"note      {notice}" for notice in experiment.notices]
    return [*lines, "ok"]


def plan(experiment: Experiment) -> list[str]:
    """Return what a search would do first, without running a trial."""
    experiment, model = informed(experiment)
    kinds = kinds_of(model)
    lines = [f"{experiment.name}: {experiment.trials} trials, seed {experiment.seed}"]
    lines += _points(experiment, kinds)
    lines.append("first points:")
    for point in opening(experiment):
        reason = refusal_here(experiment, experiment.space.plan(point), kinds)
        runtime = experiment.space.plan(point).runtime
        lines.append(f"  {runtime:<12} {experiment.space.short(point):<44} {reason or ''}".rstrip())
    return [*lines, "then points where the sampler expects to extend the front"]


def informed(experiment: Experiment) -> tuple[Experiment, nn.Module]:
    """Return the experiment with what its model shows, and the model, in float32.

    Its space knows the outputs, so that no trial is spent on a dimension that is dead for them.
    Whatever the user's code raises becomes one line.
    """
    task = experiment.task
    try:
        model = task.given()
    except Exception as error:
        raise BadTask(f"model() failed: {said(error)}") from error
    notices = (*experiment.notices, *_precision(model))
    model = model.float()
    space = dataclasses.replace(experiment.space, outputs=_outputs(experiment, model))
    return dataclasses.replace(experiment, space=space, notices=notices), model


def _precision(model: nn.Module) -> Iterator[str]:
    """Yield the notice that a model is not deployed in the type that it comes in."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if types:
        names = " and ".join(sorted(str(t).removeprefix("torch.") for t in types))
        yield (
            f"the model comes in {names}: it is compared, searched and deployed in float32, and so "
            "are its inputs"
        )


def _outputs(experiment: Experiment, model: nn.Module) -> Outputs:
    """Return what a batch shows of the outputs."""
    _, outputs, _ = tried(experiment, model, "validation", experiment.target.batch_size)
    return Outputs(classes=has_classes(outputs))


def _points(experiment: Experiment, kinds: frozenset[str]) -> list[str]:
    return counted(experiment, lambda p: refusal_here(experiment, experiment.space.plan(p), kinds))


def _weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
