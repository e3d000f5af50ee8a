"""The loss of recovery training: the task's, the teacher's and the features' term."""

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
class Taught:
    """What a teacher says about a batch."""

    outputs: Any
    features: Mapping[str, Tensor]


class Teacher:
    """The uncompressed model, run without gradients."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None, tap: Tap | None) -> None:
        self.model, self._dtype, self._tap = model, dtype, tap

    def __call__(self, inputs: Inputs) -> Taught:
        """Return its outputs, in float32, and the features that are watched."""
        with torch.no_grad():
            outputs = forward(self.model, inputs, self._dtype)
        return Taught(outputs=outputs, features=self._tap.take() if self._tap else {})


class Lesson(nn.Module):
    """The student as a module whose output is the loss of a batch.

    It holds all that is trained, so that distributed wrappers see every parameter of a step: the
    student's and those of the features' projections.
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

    def forward(self, inputs: Inputs, targets: Targets, taught: Taught | None) -> Tensor:
        """Return (1 - w) task loss + w distillation + f features' distance, a scalar."""
        asked, weight = self._recovery, self._recovery.teacher_weight
        outputs = forward(self.student, inputs, self._dtype)
        loss = torch.zeros(())
        if weight < 1:
            loss = (1 - weight) * self._task.loss(outputs, targets)
        if taught is not None and weight > 0:
            term = distillation(outputs, taught.outputs, asked.temperature, hard=asked.hard_labels)
            loss = loss + weight * term
        if taught is not None and self.match is not None and self._tap is not None:
            loss = loss + asked.feature_weight * self.match(self._tap.take(), taught.features)
        if loss.dim() > 0:
            raise TypeError(
                f"the task's loss must be a scalar tensor, got shape {tuple(loss.shape)}"
            )
        return loss


@contextlib.contextmanager
def lesson(
    student: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    recovery: Recovery,
    match: Match | None,
) -> Iterator[tuple[Lesson, Teacher | None]]:
    """Give the lesson and its teacher; inside the block both models' features are watched."""
    dtype = autocast_type(recovery.dtype)
    with contextlib.ExitStack() as held:
        mine = theirs = None
        if match is not None and teacher is not None:
            mine = held.enter_context(tapped(student, match.names))
            theirs = held.enter_context(tapped(teacher, match.names))
        given = Lesson(student, task, recovery, dtype, match, mine)
        yield given, None if teacher is None else Teacher(teacher, dtype, theirs)


def forward(model: nn.Module, inputs: Inputs, dtype: torch.dtype | None) -> Any:
    """Return the outputs in float32, computed in `dtype` where it is not None."""
    if dtype is None:
        return call(model, inputs)
    with torch.autocast(flatten(inputs)[0][0].device.type, dtype=dtype):
        tensors, spec = flatten(call(model, inputs))
    return unflatten([t.float() if t.is_floating_point() else t for t in tensors], spec)


def teacher_of(reference: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of `reference` fit to teach: it is not to be trained or changed itself."""
    return copy.deepcopy(reference).to(device).float().eval().requires_grad_(False)


def lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Store the kernels of 2-D convolutions in `layout`; their activations follow."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
