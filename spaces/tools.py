"""The Tools interface: the data, device and layer times that `Technique.prepare` can use."""

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
    """The time of a single layer in milliseconds, with its 95 % interval."""

    value: float
    low: float
    high: float


class Alone(Task):
    """The task of a one-layer model, which another process can rebuild; hashable."""

    type: str
    """The layer's type; a runtime has kernels for all layers of a type or for none."""

    @abc.abstractmethod
    def inputs(self) -> Tensor:
        """Return one batch of inputs, with the same values at every call."""

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Yield nothing, since a layer is not scored."""
        del split, batch_size
        return iter(())

    def describe(self) -> dict[str, str]:
        """Return the layer's description as its name."""
        return {"name": str(self)}


class Untimed(Exception):
    """Raised for layers that cannot be timed alone; the message is the reason, one sentence."""


class Tools(Protocol):
    """Data and measurements with which a technique completes a plan."""

    @property
    def task(self) -> Task:
        """The user's task; its batches are on `device`."""

    @property
    def example(self) -> Any:
        """Inputs of one batch of the target's size, on the CPU."""

    @property
    def device(self) -> torch.device:
        """Device on which the model is edited and evaluated."""

    def time_alone(
        self, layers: Sequence[Alone], encodings: Sequence[Encoding]
    ) -> Mapping[Alone, Mapping[Encoding, Time]]:
        """Return the time of each single layer with each encoding, in the plan's runtime.

        Layers whose time no encoding can change are left out. Raises Untimed if layers cannot be
        timed alone.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A plan that a technique has completed, with the data that it follows from."""

    plan: Plan
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Data for the record that explains the plan; plain types."""
