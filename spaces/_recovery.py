"""Recovery training: the shaped model learns from the data and from the uncompressed model."""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from spaces._automatic import automatic_batch, automatic_rate, native_bfloat16, normalised
from spaces._constraint import Project
from spaces._distillation import distillation
from spaces._inputs import call, flatten, length, transform, unflatten
from spaces._plan import Recovery
from spaces._seeding import seeded
from spaces._task import Inputs, Targets, Task
from spaces._technique import Infeasible

Progress = Callable[[int, int, float], None]
"""Called after each step with the steps done, all steps and the step's loss."""

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises to its peak."""
DECAY = 0.01
"""AdamW's decoupled weight decay per unit of learning rate."""
DECAY_SGD = 1e-4
MOMENTUM = 0.9
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


def recover(
    model: nn.Module,
    reference: nn.Module,
    task: Task,
    recovery: Recovery,
    *,
    seed: int,
    progress: Progress,
) -> nn.Module:
    """Train `model` in place on the training split; return it in evaluation mode, in float32.

    The loss is (1 - w) task loss + w distillation from `reference`, with w the teacher's weight;
    at w = 0 the reference is never run, at w = 1 the labels are never used. Parameters that do
    not require gradients stay as they are. The same seed trains the same weights (bit for bit on
    one thread) and leaves the global random generators as they were. It runs where `model` is.
    Raises Diverged, and Infeasible if there is nothing to train or to distill.
    """
    model.float()
    if recovery.steps > 0:
        with seeded(seed), torch.enable_grad():
            _train(model, reference, task, recovery, progress)
    return model.eval()


def _train(
    model: nn.Module, reference: nn.Module, task: Task, recovery: Recovery, progress: Progress
) -> None:
    """Choose what was left open, then run all steps."""
    if not any(p.requires_grad for p in model.parameters()):
        raise Infeasible(
            "recovery training has nothing to train: every parameter of the model has "
            "requires_grad = False; set it in model(), or search with distill.logits steps = [0]"
        )
    device = next(model.parameters()).device
    teacher = _teacher(reference, device) if recovery.teacher_weight > 0 else None
    size = recovery.batch_size
    if size == 0:
        size = automatic_batch(model, teacher, next(_endless(task, 2, device))[0])
    rate = recovery.learning_rate or automatic_rate(model, size)
    recovery = dataclasses.replace(recovery, learning_rate=rate, batch_size=size)
    with _in_training(model), contextlib.ExitStack() as held:
        projects = [held.enter_context(c.hold(model, task)) for c in recovery.constraints]
        _steps(model, teacher, task, recovery, projects, progress)


def _steps(
    model: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    recovery: Recovery,
    projects: Sequence[Project],
    progress: Progress,
) -> None:
    """Run all steps: the learning rate warms up linearly, then falls to zero along a cosine."""
    weights = [p for p in model.parameters() if p.requires_grad]
    peak = recovery.learning_rate
    optimizer = _optimizer(model, weights, peak)
    batches = _endless(task, recovery.batch_size, weights[0].device)
    for step in range(1, recovery.steps + 1):
        rate = peak * schedule(step, recovery.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _loss(model, teacher, task, recovery, next(batches))
        value = loss.item()
        optimizer.zero_grad()
        if math.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(weights, CLIP).item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise Diverged(step, value, rate)
        optimizer.step()
        for project in projects:
            project()
        progress(step, recovery.steps, value)


def _loss(
    model: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    recovery: Recovery,
    batch: tuple[Inputs, Targets],
) -> Tensor:
    """Return the loss of a batch, a scalar."""
    inputs, targets = batch
    weight = recovery.teacher_weight
    outputs = _forward(model, inputs)
    loss = torch.zeros(())
    if weight < 1:
        loss = (1 - weight) * task.loss(outputs, targets)
    if teacher is not None:
        with torch.no_grad():
            taught = _forward(teacher, inputs)
        loss = loss + weight * distillation(outputs, taught, recovery.temperature)
    if loss.dim() > 0:
        raise TypeError(f"the task's loss must be a scalar tensor, got shape {tuple(loss.shape)}")
    return loss


def _forward(model: nn.Module, inputs: Inputs) -> Any:
    """Return the outputs, computed in bfloat16 where the hardware gains from it, in float32."""
    device = next(model.parameters()).device
    if not native_bfloat16(device):
        return call(model, inputs)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        tensors, spec = flatten(call(model, inputs))
    return unflatten([t.float() if t.is_floating_point() else t for t in tensors], spec)


def schedule(step: int, steps: int) -> float:
    """Return the learning rate of step 1..steps as a share of its peak."""
    rise = max(1, round(WARM_UP * steps))
    if step <= rise:
        return step / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise + 1)))


def _optimizer(model: nn.Module, weights: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
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
    # Fused: a tenth of the time of a loop over parameters, on CPUs too.
    if sgd:
        return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def _teacher(reference: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of `reference` fit to teach: it is not to be trained or changed itself."""
    teacher = copy.deepcopy(reference).to(device).float().eval().requires_grad_(False)
    _lay_out(teacher, torch.channels_last)
    return teacher


def _endless(task: Task, batch_size: int, device: torch.device) -> Iterator[tuple[Inputs, Targets]]:
    """Yield training batches, one pass after another, in float32 on `device`.

    The rest at the end of a pass is left out if it is under half a batch: its gradient and the
    batch normalisation's statistics are too noisy.
    """
    while True:
        full = 0
        for inputs, targets in task.batches("train", batch_size):
            full = max(full, length(inputs))
            if 2 * length(inputs) < full:
                continue
            yield transform(inputs, lambda t: _place(t, device)), _placed(targets, device)
        if full == 0:
            raise ValueError('the task\'s batches("train", ...) yields nothing to train on')


def _place(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype)


def _placed(targets: Targets, device: torch.device) -> Targets:
    """Return targets on `device`; on the CPU they stay whatever the task made them."""
    return targets if device.type == "cpu" else transform(targets, lambda t: t.to(device))


@contextlib.contextmanager
def _in_training(model: nn.Module) -> Iterator[None]:
    """Training mode, the fastest memory layout and no dropout; all undone at the end.

    Dropout only slows the few steps of a recovery down.
    """
    dropouts = [(m, m.p) for m in model.modules() if isinstance(m, _DropoutNd)]
    model.train()
    _lay_out(model, torch.channels_last)
    for module, _ in dropouts:
        module.p = 0.0
    try:
        yield
    finally:
        for module, p in dropouts:
            module.p = p
        model.zero_grad()
        _lay_out(model, torch.contiguous_format)


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Store the kernels of 2-D convolutions in `layout`; their activations follow."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
