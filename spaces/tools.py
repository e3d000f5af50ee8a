"""What the engine offers a technique that settles a plan in view of the shaped model."""

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from spaces.plan import Encoding, Plan
from spaces.task import Split, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Time:
    """The time of one layer alone, in milliseconds, with its 95 % interval."""

    value: float
    low: float
    high: float


class Alone(Task):
    """The task of a model of one layer, which another process can rebuild; hashable."""

    type: str
    """The layer's type: a runtime has kernels for all layers of a type or for none."""

    @abc.abstractmethod
    def inputs(self) -> Tensor:
        """Return one batch of inputs, the same values every time."""

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Yield nothing: a layer is not scored."""
        del split, batch_size
        return iter(())

    def describe(self) -> dict[str, str]:
        """Return the layer in a few words."""
        return {"name": str(self)}


class Untimed(Exception):
    """Layers that cannot be timed alone; the message says why, in one sentence."""


class Tools(Protocol):
    """What a technique may use to settle a plan."""

    @property
    def task(self) -> Task:
        """The user's task; its batches are on `device`."""

    @property
    def example(self) -> Any:
        """Inputs of one batch of the target's size, on the CPU."""

    @property
    def device(self) -> torch.device:
        """Where the model is worked on."""

    def time_alone(
        self, layers: Sequence[Alone], encodings: Sequence[Encoding]
    ) -> Mapping[Alone, Mapping[Encoding, Time]]:
        """Return the times of layers alone with each encoding, as the plan's runtime runs them.

        A layer is left out where no encoding can change its time. Raises Untimed.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A plan that a technique has settled."""

    plan: Plan
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What it follows from, for the record, as plain data."""
