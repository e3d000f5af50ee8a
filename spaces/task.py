"""The Task interface: the user's model, data, loss and score."""

import abc
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.messages import first_line

Split = Literal["train", "validation", "test"]
Inputs = Any
"""A tensor, a tuple of tensors (positional arguments of forward) or a dict (keyword arguments)."""
Targets = Any
"""Any value that the task's loss and score accept; its tensors have the batch as dimension 0."""


class Unsuited(ValueError):
    """Raised when the default loss or score of a task cannot take its outputs or targets."""


class Metric(Protocol):
    """A score that is fed batch by batch, with the methods of a `torchmetrics.Metric`.

    Higher is better, unless it has an attribute `higher_is_better` that is False.
    """

    def update(self, outputs: Any, targets: Any, /) -> None:
        """Add the outputs and targets of a batch."""

    def compute(self) -> Any:
        """Return the score of all that was added: a number, or a tensor with one element."""

    def reset(self) -> None:
        """Forget what was added."""


class Task(abc.ABC):
    """The user's trained model, data, loss and score."""

    reference: ClassVar[str | None] = None
    """Field that names the model, which `--model TASK:VALUE` sets; None if there is none."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions, besides PyTorch, whose versions affect the model or the data."""

    @abc.abstractmethod
    def model(self) -> nn.Module:
        """Return the trained model, on the CPU and in float32."""

    def given(self) -> nn.Module:
        """Return the model in its original floating-point type."""
        return self.model()

    @abc.abstractmethod
    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Inputs, Targets]]:
        """Yield (inputs, targets) once over a split; the last batch may be smaller.

        Floating-point inputs are float32, as the model is.
        """

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        """Return the scalar training loss of a batch; mean cross-entropy in nats by default.

        Raises Unsuited if the default cannot take these outputs and targets.
        """
        try:
            return F.cross_entropy(outputs, targets)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise Unsuited(
                "the task has no loss(), and the default, cross-entropy of logits with class "
                f"numbers, cannot take outputs {_kind(outputs)} and targets {_kind(targets)} "
                f"({first_line(error)}): write loss(outputs, targets) in the task, or search no "
                "training"
            ) from error

    def score(self, outputs: Any, targets: Targets) -> float:
        """Return the score of a whole split, higher is better; top-1 accuracy 0..1 by default.

        Raises Unsuited if the default cannot take these outputs and targets.
        """
        both = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
        # With other shapes the comparison would broadcast predictions against all targets.
        if both and outputs.dim() > 1 and outputs[:, 0].shape == targets.shape:
            return float((outputs.argmax(1) == targets).float().mean())
        raise Unsuited(
            "the task has no score(), and the default, top-1 accuracy of logits with class "
            f"numbers, cannot take outputs {_kind(outputs)} and targets {_kind(targets)}: "
            "write score(outputs, targets) in the task, higher is better"
        )

    def metric(self) -> Metric | None:
        """Return a metric in place of `score`, for outputs too large to keep; None by default."""
        return None

    def notices(self) -> tuple[str, ...]:
        """Return lines for the user about choices that the task made by itself."""
        return ()

    @abc.abstractmethod
    def describe(self) -> dict[str, str]:
        """Return the name and the settings that identify the task, as strings."""


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"of type {type(value).__name__}"
