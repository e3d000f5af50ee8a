"""What the model, the loss and the score make of the first samples: found out before any trial."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from objectives import READ_BATCH
from search.errors import BadTask
from search.experiment import Experiment
from spaces import Split, Stage, Unsuited, said
from spaces.modules import call, concatenate, flatten, length, plain, rows
from spaces.training import BATCHES

LESSON = BATCHES[0]
"""Samples on which the loss is rehearsed: the smallest batch that training chooses by itself."""
SECONDS = 2.0
"""Time for the samples on which the score is rehearsed, of which there are READ_BATCH at most."""
CERTAIN = (Unsuited, TypeError, AttributeError, NameError, ImportError)
"""Errors that are the code's whatever the samples are."""

Pair = tuple[Any, Any]
"""Outputs and targets of the same samples."""


def tried(experiment: Experiment, model: nn.Module, split: Split, size: int) -> tuple[Any, ...]:
    """Return the inputs of a split's first batch, what the model makes of them, and the targets.

    Raises BadTask when the split, asked for batches of `size` samples, or the model fails.
    """
    step = source = f'batches("{split}", {size})'
    try:
        inputs, targets = next(iter(experiment.task.batches(split, size)))
        flatten(inputs)
        step = "forward"
        outputs = _forward(model, inputs)
    except StopIteration:
        raise BadTask(f"{source} yields nothing: every split needs at least one batch") from None
    except Exception as error:
        raise BadTask(f"{step} failed: {said(error)}") from error
    return inputs, outputs, targets


def rehearsed(experiment: Experiment, model: nn.Module) -> list[str]:
    """Return, a line for each split, what its first samples become in the model.

    The loss is rehearsed on what is trained on and the score on what guides the search, both on
    more samples than a small batch of the target has; `test` is not scored: that is for the front.
    Raises BadTask at the first fault: found later, it would cost the trials before it.
    """
    with _threads(experiment.target.threads):
        return _lines(experiment, model)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use no more threads: small batches on busy cores wait for the last of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _lines(experiment: Experiment, model: nn.Module) -> list[str]:
    size = experiment.target.batch_size
    lines = []
    given = {}
    for split in ("train", "validation", "test"):
        inputs, outputs, targets = tried(experiment, model, split, size)
        _sized(f'batches("{split}", {size})', split, length(inputs), size)
        given[split] = (inputs, targets)
        shapes = f"inputs {_shapes(inputs)} -> outputs {_shapes(outputs)}"
        if split == "train":
            shapes += f", {_loss(experiment, model)}"
        elif split == "validation" and any(g.objective.trained for g in experiment.objectives):
            shapes += f", {_score(experiment, model)}"
        lines.append(f"{split:<9} {shapes}")
    _alike(size, given["validation"], given["test"])
    return lines


def _forward(model: nn.Module, inputs: Any) -> Any:
    """Return what the model makes of a batch, one row for each sample.

    Without gradients, but not in inference mode: a loss may have weights of its own.
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


def _loss(experiment: Experiment, model: nn.Module) -> str:
    """Return the loss in words; one that a task without its own cannot have matters to training."""
    size = experiment.target.batch_size
    trains = any(slot.base.stage is Stage.TRAIN for slot in experiment.space.slots)
    inputs, outputs, targets = tried(
        experiment, model, "train", max(LESSON, size) if trains else size
    )
    try:
        with torch.no_grad():
            loss = float(experiment.task.loss(outputs, targets))
    except Unsuited as error:
        if trains:
            raise BadTask(str(error)) from error
        return "no loss, and nothing is trained"
    except Exception as error:
        if length(inputs) > 1:
            raise BadTask(f"loss(outputs, targets) on train failed: {said(error)}") from error
        return "no loss of a single sample"
    if not math.isfinite(loss) and length(inputs) > 1:
        raise BadTask(f"loss and score must be finite, got a loss of {loss}")
    return f"loss {loss:.3g}"


def _score(experiment: Experiment, model: nn.Module) -> str:
    """Return the score of the first validation samples in words.

    It is promised a whole split, and some samples need not have a score: where the first have
    none, as a correlation or an area under a curve of a single class, the whole split decides.
    """
    stream = _pairs(experiment, model)
    pairs = list(_first(stream))
    try:
        return _scored(experiment, pairs)
    except BadTask as error:
        if isinstance(error.__cause__, CERTAIN):
            raise
        rest = list(stream)
        if not rest:
            raise
    return _scored(experiment, pairs + rest)


def _pairs(experiment: Experiment, model: nn.Module) -> Iterator[Pair]:
    """Yield outputs and targets of the validation split, a batch of the target at a time."""
    size, step = experiment.target.batch_size, f'batches("validation", {READ_BATCH})'
    try:
        for inputs, targets in experiment.task.batches("validation", READ_BATCH):
            for start in range(0, length(inputs), size):
                piece = slice(start, start + size)
                step = "forward"
                outputs = _forward(model, plain(rows(inputs, piece)))
                step = f'batches("validation", {READ_BATCH})'
                yield outputs, rows(targets, piece)
    except Exception as error:
        raise BadTask(f"{step} failed: {said(error)}") from error


def _first(stream: Iterator[Pair]) -> Iterator[Pair]:
    """Yield as many as there is time for, two samples at least and READ_BATCH at most."""
    end, seen = time.monotonic() + SECONDS, 0
    while seen < READ_BATCH and (seen < 2 or time.monotonic() < end):
        pair = next(stream, None)
        if pair is None:
            return
        seen += length(pair[0])
        yield pair


def _scored(experiment: Experiment, pairs: Sequence[Pair]) -> str:
    outputs = concatenate([outputs for outputs, _ in pairs])
    targets = plain(concatenate([targets for _, targets in pairs]))
    try:
        score = experiment.task.score(outputs, targets)
    except Unsuited as error:
        raise BadTask(str(error)) from error
    except Exception as error:
        raise BadTask(f"score(outputs, targets) on validation failed: {said(error)}") from error
    if not math.isfinite(score):
        raise BadTask(f"loss and score must be finite, got a score of {score} on validation")
    return f"score {score:.3g} of {length(outputs)} samples"


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


def _alike(size: int, validation: Pair, test: Pair) -> None:
    """Refuse a test split unlike validation: an artifact takes one structure, shape and type."""
    for part, mine, theirs in zip(("inputs", "targets"), test, validation, strict=True):
        try:
            (found, spec), (known, usual) = flatten(mine), flatten(theirs)
        except TypeError as error:
            raise BadTask(f'batches("test", {size}): {part}: {error}') from error
        same = spec == usual
        if part == "inputs":
            same = same and [_sample(t) for t in found] == [_sample(t) for t in known]
        if not same:
            raise BadTask(
                f'batches("test", {size}) yields {part} {_shapes(mine)}, those of validation are '
                f"{_shapes(theirs)}: both need the same structure, shapes and types"
            )


def _sample(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape[1:]), tensor.dtype


def _shapes(tree: Any) -> str:
    tensors, _ = flatten(tree)
    return ", ".join(f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors)
