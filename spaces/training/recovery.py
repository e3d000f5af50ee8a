"""Recovery training: the shaped model learns from the data and from the uncompressed model."""

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
from spaces.training.loop import Course, Diverged, Outcome, Progress, run, schedule
from spaces.training.loss import lay_out, lesson, teacher_of
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
"""Called once, after the last step."""

FITTED = 64
"""Training samples on which projections between features are fitted."""


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

    The loss is (1 - w) task loss + w distillation from `reference` + f features' distance, with w
    the teacher's weight; at w = f = 0 the reference is never run, at w = 1 the labels are never
    used. Parameters that do not require gradients stay as they are. The same seed trains the same
    weights (bit for bit on one thread) and leaves the global random generators as they were. It
    runs where `model` is, and on `recovery.devices` devices of that kind. A model that
    training made worse gets its weights back; `ended` is told.
    Raises Diverged, Broken when a process of several fails, and Infeasible if there is nothing to
    train or to distill, or if the hardware cannot.
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
    """Return `recovery` without the constraints that a training of `model` can do without."""
    with seeded(0):
        needed = [constraint.needed(model, task) for constraint in recovery.constraints]
    constraints = tuple(constraint for constraint in needed if constraint is not None)
    return dataclasses.replace(recovery, constraints=constraints)


def _chosen(model: nn.Module, reference: nn.Module, task: Task, recovery: Recovery) -> Recovery:
    """Return `recovery` with what it left open; raise Infeasible when it cannot be done."""
    if not any(p.requires_grad for p in model.parameters()):
        raise Infeasible(
            "recovery training has nothing to train: every parameter of the model has "
            "requires_grad = False; set it in model(), or search with distill.logits steps = [0]",
            scope=Scope.TECHNIQUE,
        )
    device = next(model.parameters()).device
    if reason := refusal(recovery, device.type):
        raise Infeasible(reason)
    few = example(task, 2, device).inputs
    size = recovery.batch_size
    if size == 0:
        teacher = teacher_of(reference, device) if _taught(recovery) else None
        size = automatic_batch(model, teacher, few)
    rate = recovery.learning_rate or automatic_rate(model, size)
    dtype = automatic_type(model, few) if recovery.dtype == "auto" else recovery.dtype
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

    A model that is sharded is elsewhere at first, and has sharded parameters afterwards.
    """
    place = next(model.parameters()).device
    teacher = teacher_of(reference, place) if _taught(recovery) else None
    layout = torch.contiguous_format if world.sharded else torch.channels_last
    if teacher is not None:
        lay_out(teacher, layout)
    with _in_training(model, layout), contextlib.ExitStack() as held:
        here = placed(task, place)
        projects = [held.enter_context(c.hold(model, here)) for c in recovery.constraints]
        match = _match(model, teacher, task, recovery, place)
        if recovery.dtype == "float8":
            held.enter_context(in_float8(model))
        held.enter_context(world.joined(model))
        if teacher is not None:
            world.shard(teacher, device)
        given, taught = held.enter_context(lesson(model, teacher, task, recovery, match))
        return run(
            Course(
                lesson=given,
                teacher=taught,
                task=task,
                recovery=recovery,
                projects=projects,
                world=world,
                device=device,
                progress=progress,
            )
        )


def _taught(recovery: Recovery) -> bool:
    return recovery.teacher_weight > 0 or recovery.feature_weight > 0


def _match(
    model: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    recovery: Recovery,
    device: torch.device,
) -> Match | None:
    """Return how features are compared, None if they are not."""
    if teacher is None or recovery.feature_weight == 0:
        return None
    inputs = example(task, min(FITTED, recovery.batch_size), device).inputs
    return matched(
        model, teacher, inputs, recovery.feature_layers, relations=recovery.feature_relations
    )


@contextlib.contextmanager
def _in_training(model: nn.Module, layout: torch.memory_format) -> Iterator[None]:
    """Training mode, the fastest memory layout and no dropout; all undone at the end.

    Dropout only slows the few steps of a recovery down.
    """
    dropouts = [(m, m.p) for m in model.modules() if isinstance(m, Dropout)]
    model.train()
    lay_out(model, layout)
    for module, _ in dropouts:
        module.p = 0.0
    try:
        yield
    finally:
        for module, p in dropouts:
            module.p = p
        model.zero_grad()
        if layout is torch.channels_last:
            lay_out(model, torch.contiguous_format)
