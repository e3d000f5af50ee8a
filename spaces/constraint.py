"""What weights are held to while a model is trained: zeros that stay zero, grids of few bits."""

import abc
import contextlib
import dataclasses
from collections.abc import Callable
from typing import ClassVar, Self

from torch import nn

from spaces.task import Task

Project = Callable[[], None]
"""Called after every optimizer step: puts the weights back to where they must be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constraint(abc.ABC):
    """Something that recovery training must not undo; plain data, so that it can be a cache key.

    A technique adds one to `Plan.recovery`; the one training loop keeps to it.
    """

    shardable: ClassVar[bool] = False
    """Whether it can be kept to while each device stores only a part of every weight."""

    def needed(self, model: nn.Module, task: Task) -> Self | None:
        """Return what of it a training of `model` has to keep to; None if it can do without."""
        del model, task
        return self

    @abc.abstractmethod
    def hold(self, model: nn.Module, task: Task) -> contextlib.AbstractContextManager[Project]:
        """Hold `model`, in place, until the context ends; then its weights are plain again.

        Entered before the optimizer is made: parametrizations may add parameters to be trained.
        On leaving, the model has the modules and parameters that it had before, and its weights
        are those that the constraint allows.
        """
