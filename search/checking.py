"""What is found out before any trial: whether an experiment and its task can be used."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from search.errors import BadExperiment, BadTask
from search.experiment import Experiment
from search.feasibility import kinds_of, refusal
from search.opening import opening
from search.wording import short
from spaces import Outputs, Point, Split
from spaces._distillation import has_classes
from spaces._inputs import call, flatten, length

COUNTED = 20_000
"""Spaces up to this size are gone through point by point."""


def check(experiment: Experiment) -> list[str]:
    """Return what was found, a line each; raises BadTask or BadExperiment at the first fault."""
    experiment, model = informed(experiment)
    lines = [f"task      {experiment.task.describe()['name']}: {_weights(model):,} weights"]
    splits: tuple[Split, ...] = ("train", "validation", "test")
    for split in splits:
        lines.append(f"{split:<9} {_split(experiment, model, split)}")
    lines += _points(experiment, kinds_of(model))
    lines += [f"note      {notice}" for notice in experiment.notices]
    return [*lines, "ok"]


def plan(experiment: Experiment) -> list[str]:
    """Return what a search would do first, without running a trial."""
    experiment, model = informed(experiment)
    kinds = kinds_of(model)
    neutral = experiment.space.neutral()
    lines = [f"{experiment.name}: {experiment.trials} trials, seed {experiment.seed}"]
    lines += _points(experiment, kinds)
    lines.append("first points:")
    for point in opening(experiment):
        reason = refusal(experiment, experiment.space.plan(point), kinds)
        runtime = experiment.space.plan(point).runtime
        lines.append(f"  {runtime:<12} {short(point, neutral):<44} {reason or ''}".rstrip())
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
        raise BadTask(f"model() failed: {_said(error)}") from error
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
    _, outputs, _ = _tried(experiment, model, "validation")
    return Outputs(classes=has_classes(outputs))


def _tried(experiment: Experiment, model: nn.Module, split: Split) -> tuple[Any, Any, Any]:
    """Return a split's first inputs, what the model makes of them, and the targets."""
    task, size = experiment.task, experiment.target.batch_size
    step = f'batches("{split}", {size})'
    try:
        inputs, targets = next(iter(task.batches(split, size)))
        flatten(inputs)
        step = "forward"
        with torch.inference_mode():
            outputs = call(model, inputs)
        flatten(outputs)
    except StopIteration:
        raise BadTask(f"{step} yields nothing: every split needs at least one batch") from None
    except Exception as error:
        raise BadTask(f"{step} failed: {_said(error)}") from error
    return inputs, outputs, targets


def _split(experiment: Experiment, model: nn.Module, split: Split) -> str:
    """Return what a split's first batch looks like after going through forward, loss and score."""
    task, size = experiment.task, experiment.target.batch_size
    inputs, outputs, targets = _tried(experiment, model, split)
    step = "loss(outputs, targets)"
    try:
        loss = task.loss(outputs, targets)
        step = "score(outputs, targets)"
        score = task.score(outputs, targets)
    except Exception as error:
        raise BadTask(f"{step} failed: {_said(error)}") from error
    if not math.isfinite(float(loss)) or not math.isfinite(score):
        raise BadTask(f"loss and score must be finite, got {float(loss)} and {score} on {split}")
    if length(inputs) != size:
        raise BadTask(
            f'batches("{split}", {size}): the first batch has {length(inputs)} samples, asked for '
            f"{size}"
        )
    shapes = [_shapes(flatten(tree)[0]) for tree in (inputs, outputs)]
    return f"inputs {shapes[0]} -> outputs {shapes[1]}, loss {float(loss):.3g}"


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors)


def _points(experiment: Experiment, kinds: frozenset[str]) -> list[str]:
    """Return how many points there are, and why some cannot be executed.

    Raises BadExperiment when not even one point can be executed.
    """
    size = experiment.space.size()
    lines = [f"space     {len(experiment.space.dimensions())} dimensions, {size:,.0f} points"]
    if size > COUNTED:
        return lines
    reasons: dict[str, int] = {}
    different = set()
    for point in _all(experiment):
        reason = refusal(experiment, experiment.space.plan(point), kinds)
        if reason:
            reasons[reason] = reasons.get(reason, 0) + 1
        else:
            different.add(json.dumps(experiment.space.canonical(point), sort_keys=True))
    if not different:
        raise BadExperiment(f"no point of the space can be executed: {next(iter(reasons))}")
    lines.append(f"          {len(different):,} of them differ and can be executed")
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    return lines + [f"          {count:,} cannot: {reason}" for reason, count in ordered]


def _all(experiment: Experiment) -> Iterator[Point]:
    dimensions = experiment.space.dimensions()
    grids: list[Any] = [d.values() or () for d in dimensions.values()]
    for values in itertools.product(*grids):
        yield dict(zip(dimensions, values, strict=True))


def _weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
