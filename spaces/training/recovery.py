"""Train a shaped model on the data and against the uncompressed model, to recover its score."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import nn

from spaces.modules import Dropout, placed, seeded
from spaces.plan import Recovery
from spaces.task import Task
from spaces.technique import Infeasible, Scope
from spaces.training.batches import example
from spaces.training.defaults import automatic_batch, automatic_rate, automatic_type
from spaces.training.distributed import Broken, sharing, train_together
from spaces.training.features_term import Match, matched
from spaces.training.loop import Diverged, Outcome, Progress, Setup, run, schedule
from spaces.training.loss import recovery_loss, set_layout, teacher_of
from spaces.training.mixed_precision import in_float8, refusal
from spaces.training.world import World

__all__ = [
    "Broken",
    "Diverged",
    "Outcome",
    "Progress",
    "kept_to",
    "recover",
    "schedule",
    "sharing",
    "train",
]

Ended = Callable[[Outcome], None]
"""Called once with the outcome, after the last step."""

FITTED = 64
"""Training samples on which the feature term's projections are fitted."""


def recover(
    model: nn.Module,
    reference: nn.Module,
    task: Task,
    recovery: Recovery,
    *,
    seed: int,
    progress: Progress,
    ended: Ended = lambda outcome: None,
) -> nn.Module:
    """Train `model` in place on the training split; return it in evaluation mode, in float32.

    The loss is (1 - w) task loss + w distillation term + f feature term, with `reference` as the
    teacher, its weight w and the feature weight f; at w = f = 0 the reference is never run, at
    w = 1 the labels are never used. Parameters that do not require gradients do not change. The
    same seed trains the same weights (bit for bit on one thread) and leaves the global random
    generators unchanged. The training runs on the device of `model`, or on `recovery.devices`
    devices of its kind. A model that training made worse gets its old weights back. `ended` is
    called with the outcome.

    Raises Diverged, Broken if a process of several fails, and Infeasible if there is nothing to
    train or to distill, or if the hardware does not support the settings.
    """
    model.float()
    if recovery.steps > 0:
        recovery = kept_to(model, task, recovery)
        with seeded(seed), torch.enable_grad():
            recovery = _chosen(model, reference, task, recovery)
            if recovery.devices > 1:
                outcome = train_together(
                    model, reference, task, recovery, seed=seed, progress=progress
                )
            else:
                device = next(model.parameters()).device
                outcome = train(model, reference, task, recovery, World(), device, progress)
            ended(outcome)
    return model.eval()


def kept_to(model: nn.Module, task: Task, recovery: Recovery) -> Recovery:
    """Return `recovery` without the constraints that a training of `model` does not need."""
    with seeded(0):
        needed = [constraint.needed(model, task) for constraint in recovery.constraints]
    constraints = tuple(constraint for constraint in needed if constraint is not None)
    return dataclasses.replace(recovery, constraints=constraints)


def _chosen(model: nn.Module, reference: nn.Module, task: Task, recovery: Recovery) -> Recovery:
    """Return `recovery` with automatic values filled in; raise Infeasible if it cannot be done."""
    if not any(p.requires_grad for p in model.parameters()):
        raise Infeasible(
            "recovery training has nothing to train: every parameter of the model has "
            "requires_grad = False; set it in model(), or search with distill.logits steps = [0]",
            scope=Scope.TECHNIQUE,
        )
    device = next(model.parameters()).device
    if reason := refusal(recovery, device.type):
        raise Infeasible(reason)
    inputs = example(task, 2, device).inputs
    size = recovery.batch_size
    if size == 0:
        teacher = teacher_of(reference, device) if _uses_teacher(recovery) else None
        size = automatic_batch(model, teacher, inputs)
    rate = recovery.learning_rate or automatic_rate(model, size)
    dtype = automatic_type(model, inputs) if recovery.dtype == "auto" else recovery.dtype
    return dataclasses.replace(recovery, learning_rate=rate, batch_size=size, dtype=dtype)


def train(
    model: nn.Module,
    reference: nn.Module,
    task: Task,
    recovery: Recovery,
    world: World,
    device: torch.device,
    progress: Progress,
) -> Outcome:
    """Train `model` in place as one device of `world`.

    A model to be sharded may lie on the host before, and has sharded parameters afterwards.
    """
    place = next(model.parameters()).device
    teacher = teacher_of(reference, place) if _uses_teacher(recovery) else None
    layout = torch.contiguous_format if world.sharded else torch.channels_last
    if teacher is not None:
        set_layout(teacher, layout)
    with _in_training(model, layout), contextlib.ExitStack() as stack:
        placed_task = placed(task, place)
        projects = [stack.enter_context(c.hold(model, placed_task)) for c in recovery.constraints]
        match = _match(model, teacher, task, recovery, place)
        if recovery.dtype == "float8":
            stack.enter_context(in_float8(model))
        stack.enter_context(world.joined(model))
        if teacher is not None:
            world.shard(teacher, device)
        loss, teacher_call = stack.enter_context(
            recovery_loss(model, teacher, task, recovery, match)
        )
        return run(
            Setup(
                loss=loss,
                teacher=teacher_call,
                task=task,
                recovery=recovery,
                projects=projects,
                world=world,
                device=device,
                progress=progress,
            )
        )


def _uses_teacher(recovery: Recovery) -> bool:
    return recovery.teacher_weight > 0 or recovery.feature_weight > 0


def _match(
    model: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    recovery: Recovery,
    device: torch.device,
) -> Match | None:
    """Return the feature term, None if no features are compared."""
    if teacher is None or recovery.feature_weight == 0:
        return None
    inputs = example(task, min(FITTED, recovery.batch_size), device).inputs
    return matched(
        model, teacher, inputs, recovery.feature_layers, relations=recovery.feature_relations
    )


@contextlib.contextmanager
def _in_training(model: nn.Module, layout: torch.memory_format) -> Iterator[None]:
    """Enter training mode with a memory layout and without dropout; restore all on exit.

    In the few steps of a recovery, dropout only slows learning down.
    """
    dropouts = [(m, m.p) for m in model.modules() if isinstance(m, Dropout)]
    model.train()
    set_layout(model, layout)
    for module, _ in dropouts:
        module.p = 0.0
    try:
        yield
    finally:
        for module, p in dropouts:
            module.p = p
        model.zero_grad()
        if layout is torch.channels_last:
            set_layout(model, torch.contiguous_format)
