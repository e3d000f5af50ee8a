"""Interfaces of objectives, and the measurements that they return."""

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
"""Distinct batches that timed runs cycle through, at most."""


class Direction(enum.StrEnum):
    """Direction in which an objective improves."""

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
    """Number of observations that the value summarises."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise ValueError(f"a measurement must be finite, got {self.value} {self.unit}")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(abc.ABC):
    """Interface of an objective: one number to improve."""

    unit: ClassVar[str]
    direction: ClassVar[Direction]
    trained: ClassVar[bool] = True
    """True if the value depends on trained weights; otherwise it is measured before training."""
    positive: ClassVar[bool] = False
    """True if values of zero and below are impossible: they count as failed measurements."""
    timed: ClassVar[bool] = False
    """True for a TimedObjective."""
    apart: ClassVar[bool] = False
    """True if the artifact must be loaded in separate processes to be measured."""
    is_time: ClassVar[bool] = False
    """True if the value is a time, so that a gain is reported as a speed-up."""
    better: ClassVar[tuple[str, str] | None] = None
    """Words after a factor of gain and of loss: 4.71x faster, 1.20x slower."""
    superlative: ClassVar[str | None] = None
    """Name for the best artifact by this objective, such as "fastest"."""

    @abc.abstractmethod
    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Measure a loaded artifact on a split's examples, at the program's target."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimedObjective(Objective):
    """Objective whose value is the median of observations over a period of time.

    Observations are taken while no other measurement runs on the host. When a front is confirmed,
    its members are observed again, taking turns.
    """

    trained = False
    positive = True
    timed = True
    seconds: float = 0.8
    """Seconds of timed runs per measurement, divided among its processes."""

    @abc.abstractmethod
    def observe(self, program: Program, examples: Examples, seconds: float) -> list[float]:
        """Return observations in the objective's unit, taken during about `seconds` seconds."""

    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Measure the median of the observations in this process.

        Raises ValueError if it is not above 0.
        """
        observations = self.observe(program, examples, self.seconds)
        return self.summary([observations], program.target.device)

    def summary(self, series: Sequence[Sequence[float]], device: str = "cpu") -> Measurement:
        """Summarise the observations of one or several processes as a measurement.

        Each of `series` holds the observations of one process; `device` is the device type. The
        interval predicts the median of other processes at another moment. Raises ValueError if
        the median of a process is not above 0.
        """
        if min(float(np.median(observations)) for observations in series) <= 0:
            raise ValueError(f"what is timed must be above 0 {self.unit}")
        value, low, high = of_processes(series, device)
        samples = sum(len(observations) for observations in series)
        return Measurement(value=value, unit=self.unit, low=low, high=high, samples=samples)


def feeds(program: Program, examples: Examples) -> list[Any]:
    """Return up to BATCHES full batches in the runtime's own form.

    Several batches keep a single input from deciding a timing. Raises ValueError if the examples do
    not fill one batch.
    """
    size = program.target.batch_size
    count = max(1, min(BATCHES, len(examples) // size))
    if len(examples) < size:
        raise ValueError(f"the split has {len(examples)} samples, one batch needs {size}")
    chunks = [rows(examples.inputs, slice(i * size, (i + 1) * size)) for i in range(count)]
    return [program.feed([t.contiguous() for t in flatten(chunk)[0]]) for chunk in chunks]
