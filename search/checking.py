"""What is found out before any trial: whether an experiment and its task can be used."""

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
from spaces import Point, Split, Task
from spaces._inputs import call, flatten, length

COUNTED = 20_000
"""Spaces up to this size are gone through point by point."""


def check(experiment: Experiment) -> list[str]:
    """Return what was found, a line each; raises BadTask or BadExperiment at the first fault."""
    model = model_of(experiment.task)
    lines = [f"task      {experiment.task.describe()['name']}: {_weights(model):,} weights"]
    splits: tuple[Split, ...] = ("train", "validation", "test")
    for split in splits:
        lines.append(f"{split:<9} {_split(experiment, model, split)}")
    lines += _points(experiment, kinds_of(model))
    lines += [f"note      {notice}" for notice in experiment.notices]
    return [*lines, "ok"]


def plan(experiment: Experiment) -> list[str]:
    """Return what a search would do first, without running a trial."""
    kinds = kinds_of(model_of(experiment.task))
    neutral = experiment.space.neutral()
    lines = [f"{experiment.name}: {experiment.trials} trials, seed {experiment.seed}"]
    lines += _points(experiment, kinds)
    lines.append("first points:")
    for point in opening(experiment):
        reason = refusal(experiment, experiment.space.plan(point), kinds)
        runtime = experiment.space.plan(point).runtime
        lines.append(f"  {runtime:<12} {short(point, neutral):<44} {reason or ''}".rstrip())
    return [*lines, "then points where the sampler expects to extend the front"]


def model_of(task: Task) -> nn.Module:
    """Return the user's model; whatever their code raises becomes one line."""
    try:
        return task.model()
    except Exception as error:
        raise BadTask(f"model() failed: {_said(error)}") from error


def _split(experiment: Experiment, model: nn.Module, split: Split) -> str:
    """Return what a split's first batch looks like after going through forward, loss and score."""
    task, size = experiment.task, experiment.target.batch_size
    step = f'batches("{split}", {size})'
    try:
        inputs, targets = next(iter(task.batches(split, size)))
        tensors, _ = flatten(inputs)
        step = "forward"
        with torch.inference_mode():
            outputs = call(model, inputs)
        leaves, _ = flatten(outputs)
        step = "loss(outputs, targets)"
        loss = task.loss(outputs, targets)
        step = "score(outputs, targets)"
        score = task.score(outputs, targets)
    except StopIteration:
        raise BadTask(f"{step} yields nothing: every split needs at least one batch") from None
    except Exception as error:
        raise BadTask(f"{step} failed: {_said(error)}") from error
    if not math.isfinite(float(loss)) or not math.isfinite(score):
        raise BadTask(f"loss and score must be finite, got {float(loss)} and {score} on {split}")
    if length(inputs) != size:
        raise BadTask(f"{step}: the first batch has {length(inputs)} samples, asked for {size}")
    return f"inputs {_shapes(tensors)} -> outputs {_shapes(leaves)}, loss {float(loss):.3g}"


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
