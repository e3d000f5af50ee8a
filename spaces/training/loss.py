"""The loss of recovery training: the task's loss, the distillation term and the feature term."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spaces.modules import call, flatten, unflatten
from spaces.plan import Recovery
from spaces.task import Inputs, Targets, Task
from spaces.training.features_term import Match, Tap, tapped
from spaces.training.logits_term import distillation
from spaces.training.mixed_precision import autocast_type


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherResult:
    """Outputs and features of the teacher for a batch."""

    outputs: Any
    features: Mapping[str, Tensor]


class Teacher:
    """The uncompressed model, run without gradients."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None, tap: Tap | None) -> None:
        self.model, self._dtype, self._tap = model, dtype, tap

    def __call__(self, inputs: Inputs) -> TeacherResult:
        """Return the outputs, in float32, and the recorded features."""
        with torch.no_grad():
            outputs = forward(self.model, inputs, self._dtype)
        return TeacherResult(outputs=outputs, features=self._tap.take() if self._tap else {})


class RecoveryLoss(nn.Module):
    """The student as a module whose output is the loss of a batch.

    It contains everything that is trained, so that distributed wrappers see all parameters of a
    step: those of the student and of the feature term's projections.
    """

    def __init__(
        self,
        student: nn.Module,
        task: Task,
        recovery: Recovery,
        dtype: torch.dtype | None,
        match: Match | None = None,
        tap: Tap | None = None,
    ) -> None:
        super().__init__()
        self.student, self.match = student, match
        self._task, self._recovery, self._dtype, self._tap = task, recovery, dtype, tap

    def forward(
        self, inputs: Inputs, targets: Targets, teacher_result: TeacherResult | None
    ) -> Tensor:
        """Return (1 - w) task loss + w distillation term + f feature term, a scalar.

        Raises TypeError if the task's loss is not a scalar.
        """
        recovery, weight = self._recovery, self._recovery.teacher_weight
        outputs = forward(self.student, inputs, self._dtype)
        loss = torch.zeros(())
        if weight < 1:
            loss = (1 - weight) * self._task.loss(outputs, targets)
        if teacher_result is not None and weight > 0:
            term = distillation(
                outputs,
                teacher_result.outputs,
                recovery.temperature,
                hard=recovery.hard_labels,
            )
            loss = loss + weight * term
        if teacher_result is not None and self.match is not None and self._tap is not None:
            term = self.match(self._tap.take(), teacher_result.features)
            loss = loss + recovery.feature_weight * term
        if loss.dim() > 0:
            raise TypeError(
                f"the task's loss must be a scalar tensor, got shape {tuple(loss.shape)}"
            )
        return loss


@contextlib.contextmanager
def recovery_loss(
    student: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    recovery: Recovery,
    match: Match | None,
) -> Iterator[tuple[RecoveryLoss, Teacher | None]]:
    """Yield the loss and the teacher; inside the block, features of both models are recorded."""
    dtype = autocast_type(recovery.dtype)
    with contextlib.ExitStack() as stack:
        student_tap = teacher_tap = None
        if match is not None and teacher is not None:
            student_tap = stack.enter_context(tapped(student, match.names))
            teacher_tap = stack.enter_context(tapped(teacher, match.names))
        loss = RecoveryLoss(student, task, recovery, dtype, match, student_tap)
        yield loss, None if teacher is None else Teacher(teacher, dtype, teacher_tap)


def forward(model: nn.Module, inputs: Inputs, dtype: torch.dtype | None) -> Any:
    """Return the outputs in float32, computed with autocast to `dtype` unless it is None."""
    if dtype is None:
        return call(model, inputs)
    with torch.autocast(flatten(inputs)[0][0].device.type, dtype=dtype):
        tensors, spec = flatten(call(model, inputs))
    return unflatten([t.float() if t.is_floating_point() else t for t in tensors], spec)


def teacher_of(reference: nn.Module, device: torch.device) -> nn.Module:
    """Return a frozen copy of `reference` on `device`, in float32 and in evaluation mode."""
    return copy.deepcopy(reference).to(device).float().eval().requires_grad_(False)


def set_layout(model: nn.Module, layout: torch.memory_format) -> None:
    """Store the kernels of 2-D convolutions in `layout`; their activations follow."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
