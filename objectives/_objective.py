"""One number to improve: its unit, its direction and how it is measured."""

import abc
import dataclasses
import enum
import math
from typing import Any, ClassVar

from objectives._data import Examples
from objectives.runtimes._runtime import Program


class Direction(enum.StrEnum):
    """Which way is better."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """A finite value with its unit and a 95 % interval from `low` to `high`.

    Raises ValueError on NaN or infinity: a failed measurement is a state, never a number.
    """

    value: float
    unit: str
    low: float
    high: float
    samples: int
    """How many observations the value summarises."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise ValueError(f"a measurement must be finite, got {self.value} {self.unit}")

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as plain data."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(abc.ABC):
    """One number to improve."""

    unit: ClassVar[str]
    direction: ClassVar[Direction]
    trained: ClassVar[bool] = True
    """Whether the value depends on trained weights; if not, it is measured before training."""
    positive: ClassVar[bool] = False
    """Whether zero and below are physically impossible, hence a failed measurement."""

    @abc.abstractmethod
    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Measure a loaded artifact on a split's examples, at the program's target."""
