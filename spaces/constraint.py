"""Constraints on weights during training: zeros that stay zero, grids of few bits."""

import abc
import contextlib
import dataclasses
from collections.abc import Callable
from typing import ClassVar, Self

from torch import nn

from spaces.task import Task

Project = Callable[[], None]
"""Function to call after every optimizer step; moves the weights back to allowed values."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraint(abc.ABC):
    """A property of the model that recovery training preserves; plain data, as in cache keys.

    A technique adds one to `Plan.recovery`; the training loop enforces it.
    """

    shardable: ClassVar[bool] = False
    """Whether it can be enforced while each device stores only a part of every weight."""

    def needed(self, model: nn.Module, task: Task) -> Self | None:
        """Return the constraint to enforce while `model` is trained; None if it can be omitted."""
        del model, task
        return self

    @abc.abstractmethod
    def hold(self, model: nn.Module, task: Task) -> contextlib.AbstractContextManager[Project]:
        """Enforce the constraint on `model`, in place, until the context ends.

        The context is entered before the optimizer is created, since parametrizations may add
        parameters to train. On exit the model has the modules and parameters that it had before,
        with weights that the constraint allows.
        """
