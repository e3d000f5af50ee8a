"""Run the model, the loss and the score on the first samples, to find faults before any trial."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from objectives import Target
from search.checks.faults import fault
from search.checks.scoring import forward, score_of_first
from search.errors import BadTask
from search.experiment import Experiment
from spaces import Split, Stage, Unsuited, said
from spaces.devices import device_of
from spaces.modules import flatten, length
from spaces.training import BATCHES

LOSS_SAMPLES = BATCHES[0]
"""Samples on which the loss is run: the smallest batch that training chooses by itself."""

Pair = tuple[Any, Any]
"""Inputs and targets of the same samples."""


def run_first_batch(
    experiment: Experiment, model: nn.Module, split: Split, size: int
) -> tuple[Any, ...]:
    """Return inputs, outputs and targets of a split's first batch.

    Raises BadTask if the model fails, or the split when asked for batches of `size` samples.
    """
    step = source = f'batches("{split}", {size})'
    try:
        inputs, targets = next(iter(experiment.task.batches(split, size)))
        flatten(inputs)
        step = "forward"
        outputs = forward(model, inputs)
    except StopIteration:
        raise BadTask(f"{source} yields nothing: every split needs at least one batch") from None
    except Exception as error:
        raise fault(experiment.task, step, error) from error
    return inputs, outputs, targets


def rehearse(experiment: Experiment, model: nn.Module) -> list[str]:
    """Return the shapes, loss and score of each split's first samples, one line for each split.

    The loss is computed on the training split and the score on the validation split, both on more
    samples than a small target batch has. `test` is not scored, as it is reserved for the front.
    Raises BadTask at the first fault, which would otherwise cost the trials before it.
    """
    with _threads(experiment.target):
        return _lines(experiment, model)


@contextlib.contextmanager
def _threads(target: Target) -> Iterator[None]:
    """Limit torch's threads: on busy cores, small batches wait for the slowest thread.

    Batches for an accelerator are large, and are run on the host's cores here: all are needed.
    """
    before = torch.get_num_threads()
    accelerated = device_of(target.device).accelerator is not None
    torch.set_num_threads(before if accelerated else min(target.threads, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _lines(experiment: Experiment, model: nn.Module) -> list[str]:
    size = experiment.target.batch_size
    lines = []
    batches = {}
    for split in ("train", "validation", "test"):
        inputs, outputs, targets = run_first_batch(experiment, model, split, size)
        _check_size(f'batches("{split}", {size})', split, length(inputs), size)
        batches[split] = (inputs, targets)
        shapes = f"inputs {_shapes(inputs)} -> outputs {_shapes(outputs)}"
        if split == "train":
            shapes += f", {_loss(experiment, model)}"
        elif split == "validation" and any(g.objective.trained for g in experiment.objectives):
            shapes += f", {score_of_first(experiment, model)}"
        lines.append(f"{split:<9} {shapes}")
    _check_same_structure(size, batches["validation"], batches["test"])
    return lines


def _loss(experiment: Experiment, model: nn.Module) -> str:
    """Return the loss as text; a task without a usable loss fails only if something is trained."""
    size = experiment.target.batch_size
    trains = any(slot.base.stage is Stage.TRAIN for slot in experiment.space.slots)
    inputs, outputs, targets = run_first_batch(
        experiment, model, "train", max(LOSS_SAMPLES, size) if trains else size
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


def _check_size(source: str, split: Split, size: int, expected: int) -> None:
    """Raise BadTask for a batch of the wrong size; the test split may have fewer samples."""
    if size > expected:
        raise BadTask(
            f"{source}: its first batch has {size} samples, which must be at most the {expected} "
            "asked for"
        )
    if size < expected and split != "test":
        raise BadTask(
            f"{source}: its first batch has {size} samples, a batch of the target has {expected}; "
            "yield full batches, give the split more samples, or lower target.batch_size"
        )


def _check_same_structure(size: int, validation: Pair, test: Pair) -> None:
    """Raise BadTask if the test split differs from validation in structure, shape or type.

    An artifact accepts one structure, shape and type of inputs.
    """
    for part, test_tree, validation_tree in zip(
        ("inputs", "targets"), test, validation, strict=True
    ):
        try:
            (tensors, structure), (expected_tensors, expected_structure) = (
                flatten(test_tree),
                flatten(validation_tree),
            )
        except TypeError as error:
            raise BadTask(f'batches("test", {size}): {part}: {error}') from error
        same = structure == expected_structure
        if part == "inputs":
            same = same and [_sample(t) for t in tensors] == [_sample(t) for t in expected_tensors]
        if not same:
            raise BadTask(
                f'batches("test", {size}) yields {part} {_shapes(test_tree)}, those of validation '
                f"are {_shapes(validation_tree)}: both need the same structure, shapes and types"
            )


def _sample(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape[1:]), tensor.dtype


def _shapes(tree: Any) -> str:
    tensors, _ = flatten(tree)
    return ", ".join(f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors)
