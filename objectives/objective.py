"""One number to improve: its unit, its direction and how it is measured."""

import abc
import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from objectives.examples import Examples
from objectives.intervals import of_processes
from objectives.runtime import Program
from spaces.modules import flatten, rows

BATCHES = 8
"""Different batches that are run in turn."""


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
    timed: ClassVar[bool] = False
    """Whether it is a TimedObjective."""
    apart: ClassVar[bool] = False
    """Whether the artifact must have been loaded in processes of its own."""
    is_time: ClassVar[bool] = False
    """Whether the value is a time, so that a gain is a speed-up."""
    better: ClassVar[tuple[str, str] | None] = None
    """How a factor of gain and one of loss read: 4.71x faster, 1.20x slower."""
    superlative: ClassVar[str | None] = None
    """What the best artifact is called, such as "fastest"."""

    @abc.abstractmethod
    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Measure a loaded artifact on a split's examples, at the program's target."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimedObjective(Objective):
    """A median of observations over time.

    They are taken with the host's lane to themselves, and again in turns with others when a front
    is confirmed.
    """

    trained = False
    positive = True
    timed = True
    seconds: float = 0.8
    """Seconds of timed runs that a measurement takes; several processes share them."""

    @abc.abstractmethod
    def observe(self, program: Program, examples: Examples, seconds: float) -> list[float]:
        """Return observations in the objective's unit, taken for about `seconds`."""

    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Return the median over the observations of this process alone."""
        observations = self.observe(program, examples, self.seconds)
        return self.summary([observations], program.target.device)

    def summary(self, series: Sequence[Sequence[float]], device: str = "cpu") -> Measurement:
        """Return the median over processes on a device, `series` being what each observed.

        The interval is where other processes, at another moment, would find it. Raises ValueError
        where a process found what is impossible, such as a time of zero.
        """
        if min(float(np.median(observations)) for observations in series) <= 0:
            raise ValueError(f"what is timed must be above 0 {self.unit}")
        value, low, high = of_processes(series, device)
        samples = sum(len(observations) for observations in series)
        return Measurement(value=value, unit=self.unit, low=low, high=high, samples=samples)


def feeds(program: Program, examples: Examples) -> list[Any]:
    """Return up to BATCHES full batches in the runtime's own form, so that no input is special.

    Raises ValueError where the examples do not fill one batch.
    """
    size = program.target.batch_size
    count = max(1, min(BATCHES, len(examples) // size))
    if len(examples) < size:
        raise ValueError(f"the split has {len(examples)} samples, one batch needs {size}")
    chunks = [rows(examples.inputs, slice(i * size, (i + 1) * size)) for i in range(count)]
    return [program.feed([t.contiguous() for t in flatten(chunk)[0]]) for chunk in chunks]
