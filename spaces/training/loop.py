"""The training loop: all steps of a recovery, on one device or as one of several."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from spaces.constraint import Project
from spaces.devices import device_of
from spaces.modules import evaluating
from spaces.plan import Recovery
from spaces.task import Split, Task
from spaces.training.batches import Batch, example, held_out, sample
from spaces.training.defaults import normalised
from spaces.training.loss import RecoveryLoss, Teacher
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
"""Number of batches on which a training is judged, as a share of its steps."""
CHECK_SAMPLES = 256
"""Samples that suffice to judge a training."""
UNSUITED = (TypeError, ValueError, LookupError, AttributeError, AssertionError, RuntimeError)
"""Errors of a loss on targets of a form for which it was not written."""
CLIP = 1.0
"""Largest L2 norm of a step's gradient; a longer one is scaled down to it."""


class Diverged(RuntimeError):
    """Raised if the loss or the gradient is not finite; the message says what to change."""

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
    """The effect of a training on the loss of some samples, in evaluation mode."""

    before: float
    after: float
    split: Split
    """The split of these samples."""
    dtype: str
    """Type of the arithmetic."""
    memory: int | None = None
    """Peak bytes of tensors on the device that needs most; None if it uses the host's memory."""

    @property
    def kept(self) -> bool:
        """True if the trained weights are kept; otherwise the model has its old weights."""
        return self.after < self.before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """The batches on which a training is judged."""

    batches: Sequence[Batch]
    split: Split
    before: float
    """The mean loss before the training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that the steps of a training have in common."""

    loss: RecoveryLoss
    teacher: Teacher | None
    task: Task
    recovery: Recovery
    """With the chosen batch size and learning rate."""
    projects: Sequence[Project]
    world: World
    device: torch.device
    progress: Progress


def run(setup: Setup) -> Outcome:
    """Return the outcome of all steps, with the peak memory of the device that needs most.

    Raises Diverged.
    """
    outcomes: list[Outcome] = []
    peak = device_of(setup.device).peak_memory(lambda: outcomes.append(_run(setup)))
    if peak is None:  # it uses the host's memory, and nothing was run
        return _run(setup)
    return dataclasses.replace(outcomes[0], memory=setup.world.largest(peak, setup.device))


def _run(setup: Setup) -> Outcome:
    """Run all steps: the learning rate warms up linearly, then falls to zero along a cosine.

    A model that training made worse gets its old weights back: if shaping left hardly any error,
    the noise of small batches does more harm than their signal does good. Under float16 a step
    whose gradient overflows is skipped, and the loss of the next one is scaled less. Raises
    Diverged.
    """
    recovery, world = setup.recovery, setup.world
    trained = world.spread(setup.loss, setup.device, lambda: _probe(setup))
    batches = min(
        max(1, round(CHECK_SHARE * recovery.steps)), -(-CHECK_SAMPLES // recovery.batch_size)
    )
    check = _check(setup, batches)
    state = [(t, t.detach().clone()) for t in (*trained.parameters(), *trained.buffers())]
    _all_steps(setup, trained)
    outcome = Outcome(
        before=check.before,
        after=_loss(setup, check.batches),
        split=check.split,
        dtype=recovery.dtype,
    )
    if not outcome.kept:
        with torch.no_grad():
            for tensor, old in state:
                tensor.copy_(old)
    return outcome


def _check(setup: Setup, batches: int) -> Check:
    """Return the batches on which to judge a training, with the loss before it.

    They are of the validation split: training batches may be augmented at random, so that few of
    them say little, and weights refitted to them make the untrained model look better than it is.
    Training batches are used if the loss cannot take the validation split, whose targets may have
    another form.
    """
    size = setup.recovery.batch_size
    try:
        check = held_out(setup.task, size, batches, setup.device)
        if check and math.isfinite(before := _loss(setup, check)):
            return Check(batches=check, split="validation", before=before)
    except torch.OutOfMemoryError:
        raise
    except UNSUITED:
        pass
    check = sample(setup.task, size, batches, setup.device)
    return Check(batches=check, split="train", before=_loss(setup, check))


def _loss(setup: Setup, batches: Sequence[Batch]) -> float:
    """Return the mean loss of whole batches in evaluation mode, the same on every device."""
    total = 0.0
    with torch.no_grad(), evaluating(setup.loss):
        for batch in batches:
            teacher_result = setup.teacher(batch.inputs) if setup.teacher else None
            total += float(setup.loss(batch.inputs, batch.targets, teacher_result))
    setup.world.reshard(setup.loss)
    return total / len(batches)


def _all_steps(setup: Setup, trained: nn.Module) -> None:
    recovery, world = setup.recovery, setup.world
    weights = [p for p in trained.parameters() if p.requires_grad]
    parts = [world.part(weight) for weight in weights]
    optimizer = _optimizer(setup.loss, parts, recovery.learning_rate)
    scale = scaler(recovery.dtype, setup.device)
    feed = world.feed(setup.task, recovery.batch_size, setup.device)
    with contextlib.closing(feed) as batches:
        for step in range(1, recovery.steps + 1):
            rate = recovery.learning_rate * schedule(step, recovery.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            value = _differentiate(setup, trained, optimizer, next(batches), scale)
            world.hand_over(weights, parts)
            norm = _clip(setup, parts)
            overflow = scale.is_enabled() and scale.get_scale() > 1
            if not math.isfinite(value) or not (math.isfinite(norm) or overflow):
                raise Diverged(step, value, rate)
            if math.isfinite(norm):  # not by GradScaler.step, after which fused SGD gave NaN
                optimizer.step()
            scale.update()
            for project in setup.projects:
                project()
            setup.progress(step, recovery.steps, value)


def _differentiate(
    setup: Setup,
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    scale: torch.amp.GradScaler,
) -> float:
    """Compute the gradient of a batch and return the loss."""
    teacher_result = setup.teacher(batch.inputs) if setup.teacher else None
    loss = trained(batch.inputs, batch.targets, teacher_result)
    value = setup.world.mean(loss, batch.share)
    optimizer.zero_grad()
    if math.isfinite(value):
        torch.autograd.backward(scale.scale(setup.world.weigh(loss, batch.share)))
        scale.unscale_(optimizer)  # does nothing if sharded, where float16 is refused
    return value


def _clip(setup: Setup, parts: Sequence[Tensor]) -> float:
    """Clip the gradients of the parts of all devices together; return their norm before."""
    own = nn.utils.get_total_norm([p.grad for p in parts if p.grad is not None])
    norm = setup.world.joint_norm(own.to(setup.device))
    nn.utils.clip_grads_with_norm_(parts, CLIP, norm)
    return norm.item()


def _probe(setup: Setup) -> torch.Tensor:
    """Return the loss of a few samples, without an effect on running statistics."""
    batch = example(setup.task, 2, setup.device)
    setup.loss.eval()
    teacher_result = setup.teacher(batch.inputs) if setup.teacher else None
    loss: torch.Tensor = setup.loss(batch.inputs, batch.targets, teacher_result)
    setup.loss.train()
    return loss


def schedule(step: int, steps: int) -> float:
    """Return the learning rate of step 1..steps as a share of its peak."""
    rise = max(1, round(WARM_UP * steps))
    if step <= rise:
        return step / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise + 1)))


def _optimizer(model: nn.Module, weights: list[Tensor], rate: float) -> torch.optim.Optimizer:
    """Return SGD for networks with batch normalisation, AdamW for others.

    Both decay matrices and kernels, but no biases and no scales of norms. AdamW's steps keep their
    length even if hardly anything remains to learn: 50 of them lower an unpruned ResNet-20 from
    0.885 to 0.865, while with SGD it keeps 0.883. Without batch normalisation, SGD's rate would
    have to be searched. Sources: Nesterov momentum as in Sutskever et al. 2013; Loshchilov and
    Hutter 2019 (AdamW).
    """
    sgd = normalised(model)
    decay = DECAY_SGD if sgd else DECAY
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    # fused takes a tenth of the time of a loop over parameters, also on CPUs
    if sgd:
        return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=rate, fused=True)
