"""The one training loop: all steps of a recovery, on one device or on one of several."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from spaces.constraint import Project
from spaces.modules import evaluating
from spaces.plan import Recovery
from spaces.task import Split, Task
from spaces.training.batches import Batch, example, held_out, sample
from spaces.training.defaults import normalised
from spaces.training.loss import Lesson, Teacher
from spaces.training.mixed_precision import scaler
from spaces.training.world import World

Progress = Callable[[int, int, float], None]
"""Called after each step with the steps done, all steps and the step's loss."""

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises to its peak."""
DECAY = 0.01
"""AdamW's decoupled weight decay per unit of learning rate."""
DECAY_SGD = 1e-4
MOMENTUM = 0.9
CHECK_SHARE = 0.1
"""Batches on which a training is judged, as a share of its steps."""
CHECK_SAMPLES = 256
"""Samples that suffice to judge a training."""
UNSUITED = (TypeError, ValueError, LookupError, AttributeError, AssertionError, RuntimeError)
"""What a loss raises on targets of another form than those it is made for."""
CLIP = 1.0
"""Largest L2 norm of a step's gradient; a longer one is scaled down to it."""


class Diverged(RuntimeError):
    """Training whose loss or gradient is no longer finite; the message says what to change."""

    def __init__(self, step: int, loss: float, learning_rate: float) -> None:
        super().__init__(step, loss, learning_rate)
        self.step, self.loss, self.learning_rate = step, loss, learning_rate

    def __str__(self) -> str:
        """Return the reason and the remedy, one sentence each."""
        if self.step == 1:
            return (
                f"recovery training cannot start: before the first update the loss is {self.loss} "
                "or its gradient is not finite. Check the task's loss on a training batch"
            )
        return (
            f"recovery training diverged at step {self.step}: the loss is {self.loss} or its "
            f"gradient is not finite, at a learning rate of {self.learning_rate:.2g}. Set "
            f"distill.logits learning_rate to {self.learning_rate / 10:.1g} or less"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training did to the loss of the same samples, in evaluation mode."""

    before: float
    after: float
    split: Split
    """Whose samples they are."""
    dtype: str
    """Type of the arithmetic."""

    @property
    def kept(self) -> bool:
        """Whether the trained weights are kept; otherwise the model is as it was."""
        return self.after < self.before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """What a training is judged on."""

    batches: Sequence[Batch]
    split: Split
    before: float
    """The mean loss before the training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
    """What all steps of a training have in common."""

    lesson: Lesson
    teacher: Teacher | None
    task: Task
    recovery: Recovery
    """With batch size and learning rate chosen."""
    projects: Sequence[Project]
    world: World
    device: torch.device
    progress: Progress


def run(course: Course) -> Outcome:
    """Run all steps: the learning rate warms up linearly, then falls to zero along a cosine.

    A model that training has made worse gets its weights back: where the shaping left hardly any
    error, the noise of small batches does more harm than their signal does good. Under float16 a
    step whose gradient overflows is left out and the next one's loss is scaled less. Raises
    Diverged.
    """
    recovery, world = course.recovery, course.world
    trained = world.spread(course.lesson, course.device, lambda: _probe(course))
    batches = min(
        max(1, round(CHECK_SHARE * recovery.steps)), -(-CHECK_SAMPLES // recovery.batch_size)
    )
    check = _checked(course, batches)
    state = [(t, t.detach().clone()) for t in (*trained.parameters(), *trained.buffers())]
    _all_steps(course, trained)
    outcome = Outcome(
        before=check.before,
        after=_loss(course, check.batches),
        split=check.split,
        dtype=recovery.dtype,
    )
    if not outcome.kept:
        with torch.no_grad():
            for tensor, old in state:
                tensor.copy_(old)
    return outcome


def _checked(course: Course, batches: int) -> Check:
    """Return what a training is judged on, measured before it.

    They are of the validation split: training batches may be augmented at random, so that a few
    of them say little, and what was fitted to them flatters the untrained model. A task whose
    loss cannot take that split, whose targets may be of another form, is judged on training
    batches.
    """
    size = course.recovery.batch_size
    try:
        check = held_out(course.task, size, batches, course.device)
        if check and math.isfinite(before := _loss(course, check)):
            return Check(batches=check, split="validation", before=before)
    except torch.OutOfMemoryError:
        raise
    except UNSUITED:
        pass
    check = sample(course.task, size, batches, course.device)
    return Check(batches=check, split="train", before=_loss(course, check))


def _loss(course: Course, batches: Sequence[Batch]) -> float:
    """Return the mean loss of whole batches in evaluation mode, on every device alike."""
    total = 0.0
    with torch.no_grad(), evaluating(course.lesson):
        for batch in batches:
            taught = course.teacher(batch.inputs) if course.teacher else None
            total += float(course.lesson(batch.inputs, batch.targets, taught))
    course.world.reshard(course.lesson)
    return total / len(batches)


def _all_steps(course: Course, trained: nn.Module) -> None:
    recovery, world = course.recovery, course.world
    weights = [p for p in trained.parameters() if p.requires_grad]
    optimizer = _optimizer(course.lesson, weights, recovery.learning_rate, fused=not world.sharded)
    scale = scaler(recovery.dtype, course.device)
    feed = world.feed(course.task, recovery.batch_size, course.device)
    with contextlib.closing(feed) as batches:
        for step in range(1, recovery.steps + 1):
            rate = recovery.learning_rate * schedule(step, recovery.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            value, norm = _differentiate(course, trained, optimizer, next(batches), scale)
            overflow = scale.is_enabled() and scale.get_scale() > 1
            if not math.isfinite(value) or not (math.isfinite(norm) or overflow):
                raise Diverged(step, value, rate)
            if math.isfinite(norm):  # ours to leave out: after the scaler's way fused SGD gave NaN
                optimizer.step()
            scale.update()
            for project in course.projects:
                project()
            course.progress(step, recovery.steps, value)


def _differentiate(
    course: Course,
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    scale: torch.amp.GradScaler,
) -> tuple[float, float]:
    """Put the clipped gradient of a batch into the weights; return the loss and its norm."""
    taught = course.teacher(batch.inputs) if course.teacher else None
    loss = trained(batch.inputs, batch.targets, taught)
    value = course.world.mean(loss, batch.share)
    optimizer.zero_grad()
    if math.isfinite(value):
        torch.autograd.backward(scale.scale(course.world.weigh(loss, batch.share)))
        scale.unscale_(optimizer)
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    return value, course.world.whole(nn.utils.clip_grad_norm_(weights, CLIP)).item()


def _probe(course: Course) -> torch.Tensor:
    """Return the loss of a few samples, with nothing remembered of them."""
    batch = example(course.task, 2, course.device)
    course.lesson.eval()
    taught = course.teacher(batch.inputs) if course.teacher else None
    loss: torch.Tensor = course.lesson(batch.inputs, batch.targets, taught)
    course.lesson.train()
    return loss


def schedule(step: int, steps: int) -> float:
    """Return the learning rate of step 1..steps as a share of its peak."""
    rise = max(1, round(WARM_UP * steps))
    if step <= rise:
        return step / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise + 1)))


def _optimizer(
    model: nn.Module, weights: list[nn.Parameter], rate: float, *, fused: bool
) -> torch.optim.Optimizer:
    """Return SGD for networks with batch normalisation, for others AdamW.

    Both decay matrices and kernels, but no biases and no scales of a norm. AdamW's steps are as
    long where hardly anything is left to learn: 50 of them lower an unpruned ResNet-20 from 0.885
    to 0.865, with SGD it keeps 0.883. Without such a norm SGD's rate would have to be searched.
    Sources: Nesterov momentum as in Sutskever et al. 2013; Loshchilov and Hutter 2019 (AdamW).
    """
    sgd = normalised(model)
    decay = DECAY_SGD if sgd else DECAY
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    # Fused: a tenth of the time of a loop over parameters, on CPUs too; sharded SGD has no such.
    if sgd:
        return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=rate, fused=fused)
