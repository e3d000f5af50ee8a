"""Score a model on the first validation samples, by the task's score or its metric."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from objectives import READ_BATCH, lower_is_better, value_of
from search.checks.faults import fault
from search.errors import BadTask
from search.experiment import Experiment
from spaces import Metric, Unsuited, said
from spaces.modules import call, concatenate, flatten, length, plain, rows

SECONDS = 2.0
"""Seconds for running the model on samples for the score, of which there are READ_BATCH at most."""
CODE_FAULTS = (Unsuited, TypeError, AttributeError, NameError, ImportError)
"""Errors of the user's code that do not depend on the samples."""

Pair = tuple[Any, Any]
"""Outputs and targets of the same samples."""


def score_of_first(experiment: Experiment, model: nn.Module) -> str:
    """Return the score of the first validation samples as text; raises BadTask if it fails.

    A score is only promised a whole split. If the first samples have none, such as a correlation or
    an area under a curve of a single class, the whole split is scored.
    """
    try:
        metric = experiment.task.metric()
    except Exception as error:
        raise BadTask(f"metric() failed: {said(error)}") from error
    if metric is not None:
        return _metric_text(metric, _pairs(experiment, model))
    stream = _pairs(experiment, model)
    pairs = list(_first(stream))
    try:
        return _text(experiment, pairs)
    except BadTask as error:
        if isinstance(error.__cause__, CODE_FAULTS):
            raise
        rest = list(stream)
        if not rest:
            raise
    return _text(experiment, pairs + rest)


def forward(model: nn.Module, inputs: Any) -> Any:
    """Return the model's outputs of a batch, which must have one row for each sample.

    Gradients are off, but inference mode is not used, as a loss may have weights of its own.
    """
    with torch.no_grad():
        outputs = call(model, inputs)
    count = length(inputs)
    for tensor in flatten(outputs)[0]:
        if tensor.dim() == 0 or len(tensor) != count:
            raise ValueError(
                f"outputs must have the batch of {count} in dimension 0, got shape "
                f"{list(tensor.shape)}; return per-sample outputs from forward"
            )
    return outputs


def _pairs(experiment: Experiment, model: nn.Module) -> Iterator[Pair]:
    """Yield outputs and targets of the validation split in batches of the target's size."""
    size, step = experiment.target.batch_size, f'batches("validation", {READ_BATCH})'
    try:
        for inputs, targets in experiment.task.batches("validation", READ_BATCH):
            for start in range(0, length(inputs), size):
                piece = slice(start, start + size)
                step = "forward"
                outputs = forward(model, plain(rows(inputs, piece)))
                step = f'batches("validation", {READ_BATCH})'
                yield outputs, rows(targets, piece)
    except Exception as error:
        raise fault(experiment.task, step, error) from error


def _first(stream: Iterator[Pair]) -> Iterator[Pair]:
    """Yield pairs until time is up: at least two samples, and about READ_BATCH at most."""
    end, seen = time.monotonic() + SECONDS, 0
    while seen < READ_BATCH and (seen < 2 or time.monotonic() < end):
        pair = next(stream, None)
        if pair is None:
            return
        seen += length(pair[0])
        yield pair


def _text(experiment: Experiment, pairs: Sequence[Pair]) -> str:
    outputs = concatenate([outputs for outputs, _ in pairs])
    targets = plain(concatenate([targets for _, targets in pairs]))
    try:
        score = experiment.task.score(outputs, targets)
    except Unsuited as error:
        raise BadTask(str(error)) from error
    except Exception as error:
        raise BadTask(f"score(outputs, targets) on validation failed: {said(error)}") from error
    _require_finite(score)
    return f"score {score:.3g} of {length(outputs)} samples"


def _metric_text(metric: Metric, stream: Iterator[Pair]) -> str:
    """Return a metric's score as text; outputs are fed to it one by one, and not kept."""
    try:
        metric.reset()
        samples = _fed(metric, _first(stream))
        score = _computed(metric)
        if score is None and (more := _fed(metric, stream)):
            samples += more
        score = value_of(metric) if score is None else score
    except BadTask:
        raise
    except Exception as error:
        raise BadTask(f"metric(), fed in batches, failed: {said(error)}") from error
    _require_finite(score)
    negated = ", negated as lower is better" if lower_is_better(metric) else ""
    return f"metric {score:.3g} of {samples} samples{negated}"


def _computed(metric: Metric) -> float | None:
    """Return a metric's score, None if the samples so far have none."""
    try:
        score = value_of(metric)
    except CODE_FAULTS:
        raise
    except (ValueError, ArithmeticError, LookupError, AssertionError, RuntimeError):
        return None
    return score if math.isfinite(score) else None


def _fed(metric: Metric, pairs: Iterator[Pair]) -> int:
    """Feed a metric; return the number of samples."""
    samples = 0
    for outputs, targets in pairs:
        metric.update(outputs, plain(targets))
        samples += length(outputs)
    return samples


def _require_finite(score: float) -> None:
    if not math.isfinite(score):
        raise BadTask(f"loss and score must be finite, got a score of {score} on validation")
