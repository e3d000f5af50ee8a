"""What is found out before any trial: whether an experiment and its task can be used."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from search.errors import BadTask
from search.experiment import Experiment
from search.feasibility import kinds_of, refusal_here
from search.opening import opening
from search.points import counted
from search.wording import short
from spaces import Outputs, Split, Stage
from spaces._distillation import has_classes
from spaces._inputs import call, flatten, length
from spaces._reasons import said
from spaces._task import Unsuited


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
    neutral = experiment.space.neutral()
    lines = [f"{experiment.name}: {experiment.trials} trials, seed {experiment.seed}"]
    lines += _points(experiment, kinds)
    lines.append("first points:")
    for point in opening(experiment):
        reason = refusal_here(experiment, experiment.space.plan(point), kinds)
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
    _, outputs, _ = _tried(experiment, model, "validation")
    return Outputs(classes=has_classes(outputs))


def _tried(experiment: Experiment, model: nn.Module, split: Split) -> tuple[Any, Any, Any]:
    """Return a split's first inputs, what the model makes of them, and the targets."""
    task, size = experiment.task, experiment.target.batch_size
    step = source = f'batches("{split}", {size})'
    try:
        inputs, targets = next(iter(task.batches(split, size)))
        flatten(inputs)
        step = "forward"
        with torch.inference_mode():
            outputs = call(model, inputs)
        flatten(outputs)
    except StopIteration:
        raise BadTask(f"{source} yields nothing: every split needs at least one batch") from None
    except Exception as error:
        raise BadTask(f"{step} failed: {said(error)}") from error
    return inputs, outputs, targets


def rehearsed(experiment: Experiment, model: nn.Module) -> list[str]:
    """Return what each split's first batch becomes in the model, the loss and the score.

    Raises BadTask at the first fault: found later, it would cost the trials before it.
    """
    splits: tuple[Split, ...] = ("train", "validation", "test")
    return [f"{split:<9} {_split(experiment, model, split)}" for split in splits]


def _split(experiment: Experiment, model: nn.Module, split: Split) -> str:
    task, size = experiment.task, experiment.target.batch_size
    inputs, outputs, targets = _tried(experiment, model, split)
    step = f"loss(outputs, targets) on {split}"
    try:
        told = _loss(experiment, outputs, targets)
        step = f"score(outputs, targets) on {split}"
        score = task.score(outputs, targets)
    except Unsuited as error:
        raise BadTask(str(error)) from error
    except BadTask:
        raise
    except Exception as error:
        raise BadTask(f"{step} failed: {said(error)}") from error
    if not math.isfinite(score):
        raise BadTask(f"loss and score must be finite, got a score of {score} on {split}")
    _sized(f'batches("{split}", {size})', split, length(inputs), size)
    shapes = [_shapes(flatten(tree)[0]) for tree in (inputs, outputs)]
    return f"inputs {shapes[0]} -> outputs {shapes[1]}, {told}"


def _loss(experiment: Experiment, outputs: Any, targets: Any) -> str:
    """Return the loss in words; one that a task without its own cannot have matters to training."""
    try:
        loss = float(experiment.task.loss(outputs, targets))
    except Unsuited:
        if any(slot.base.stage is Stage.TRAIN for slot in experiment.space.slots):
            raise
        return "no loss, and nothing is trained"
    if not math.isfinite(loss):
        raise BadTask(f"loss and score must be finite, got a loss of {loss}")
    return f"loss {loss:.3g}"


def _sized(source: str, split: Split, found: int, asked: int) -> None:
    """Refuse batches of another size than asked; what is only scored may be fewer samples."""
    if found > asked:
        raise BadTask(
            f"{source}: its first batch has {found} samples, which must be at most the {asked} "
            "asked for"
        )
    if found < asked and split != "test":
        raise BadTask(
            f"{source}: its first batch has {found} samples, a batch of the target has {asked}; "
            "yield full batches, give the split more samples, or lower target.batch_size"
        )


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors)


def _points(experiment: Experiment, kinds: frozenset[str]) -> list[str]:
    return counted(experiment, lambda p: refusal_here(experiment, experiment.space.plan(p), kinds))


def _weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
