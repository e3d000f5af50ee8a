"""Interfaces of objectives, and the measurements that they return."""

import abc
import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from objectives.examples import Examples
from objectives.intervals import (
    BATCHES,
    Turns,
    error_within,
    of_processes,
    of_ratios,
    undisturbed,
    undisturbed_ratio,
)
from objectives.runtime import Program
from objectives.target import Target
from spaces.modules import flatten, rows


class Direction(enum.StrEnum):
    """Direction in which an objective improves."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio:
    """A measurement divided by the baseline's, with its 95 % interval."""

    value: float
    low: float
    high: float


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
    ratio: Ratio | None = None
    """Ratio to the baseline's value; None unless it was timed in turns with a reference."""
    resamples: tuple[float, ...] = ()
    """Score of each resample; resamples at one index have the same samples of a split."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise ValueError(f"a measurement must be finite, got {self.value} {self.unit}")

    @property
    def half_width(self) -> float:
        """Half the width of the interval, as a share of the value."""
        return (self.high - self.low) / 2 / abs(self.value)

    def beside(self, baseline_value: float, link: "Ratio | Measurement | None" = None) -> Self:
        """Return the measurement with its ratio to the baseline's value.

        The measurement's interval is relative to the reference. If baseline and reference are two
        artifacts, `link` was measured of one beside the other, and its uncertainty adds to it.
        """
        value = self.value / baseline_value
        own = (math.log(self.value / self.low), math.log(self.high / self.value))
        added = math.log(link.high / link.low) / 2 if link else 0.0
        below, above = (math.exp(math.hypot(side, added)) for side in own)
        return dataclasses.replace(
            self, ratio=Ratio(value=value, low=value / below, high=value * above)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON, without a ratio or resamples if there are none."""
        optional = {"ratio", "resamples"}
        fields = dataclasses.asdict(self) | {"resamples": list(self.resamples)}
        return {k: v for k, v in fields.items() if v or k not in optional}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return the measurement that `to_json` described."""
        ratio = fields.get("ratio")
        resamples = tuple(fields.get("resamples", ()))
        parts = {"ratio": Ratio(**ratio) if ratio else None, "resamples": resamples}
        return cls(**{**fields, **parts})


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

    def refuses(self, target: Target, kinds: frozenset[str]) -> str | None:
        """Reason, in one sentence, why this machine cannot measure it; None if it can.

        `kinds` are the class names of the model's layers. Called before any time is spent on a
        point.
        """
        del target, kinds
        return None

    @abc.abstractmethod
    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Measure a loaded artifact on a split's examples, at the program's target."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimedObjective(Objective):
    """Objective that is observed over time; its value is that of an undisturbed machine.

    Observations are taken while no other measurement runs on the host, in short bursts that take
    turns with bursts of a reference: see `objectives.turns`. How a value follows from observations
    is told in `objectives.intervals.undisturbed`.
    """

    trained = False
    positive = True
    timed = True
    seconds: float = 0.8
    """Seconds of timed runs per measurement, divided among its processes and the reference."""

    @property
    def least_runs(self) -> int:
        """Observations that each process has to take at least, however long that takes."""
        return 0

    @abc.abstractmethod
    def observe(self, program: Program, batches: Sequence[Any], seconds: float) -> list[float]:
        """Return observations of one burst in the objective's unit, at least one.

        The burst takes about `seconds` seconds and cycles through `batches`, which are in the
        runtime's own form. The caller warms the program up.
        """

    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Measure in this process, without a reference.

        Raises ValueError if the value is not above 0.
        """
        batches = feeds(program, examples)
        self.observe(program, batches, self.seconds / 4)  # warm up
        turns = [self.observe(program, [b], self.seconds / BATCHES) for b in batches]
        return self.summary([turns], program.target.device)

    def summary(self, series: Sequence[Turns], device: str = "cpu") -> Measurement:
        """Summarise the observations of one or several processes as a measurement.

        Each of `series` holds the observations of one process; `device` is the device type. The
        interval predicts the value of other processes at another moment. Raises ValueError if
        an observation is not above 0.
        """
        self.require_positive(series)
        values = [undisturbed(turns, lowest=self._lowest) for turns in series]
        errors = [error_within(turns, lowest=self._lowest) for turns in series]
        value, low, high = of_processes(values, errors, device)
        samples = sum(len(turn) for turns in series for turn in turns)
        return Measurement(value=value, unit=self.unit, low=low, high=high, samples=samples)

    def relative(
        self,
        series: Sequence[Turns],
        reference_series: Sequence[Turns],
        reference_value: float,
        device: str = "cpu",
    ) -> Measurement:
        """Summarise observations that were taken in turns with those of a reference.

        Each of `series` and `reference_series` holds the observations of one process, with the same
        turns. The value is the ratio times `reference_value`, so that values of different minutes,
        and paces of the machine, can be compared. Raises ValueError if an observation is not
        above 0.
        """
        pairs = list(zip(series, reference_series, strict=True))
        self.require_positive([*series, *reference_series])
        ratios = [undisturbed_ratio(*pair, lowest=self._lowest) for pair in pairs]
        errors = [error_within(*pair, lowest=self._lowest) for pair in pairs]
        value, low, high = (r * reference_value for r in of_ratios(ratios, errors, device))
        samples = sum(len(turn) for turns in series for turn in turns)
        return Measurement(value=value, unit=self.unit, low=low, high=high, samples=samples)

    @property
    def _lowest(self) -> bool:
        return self.direction is Direction.MINIMIZE

    def require_positive(self, series: Sequence[Turns]) -> None:
        """Raise ValueError if an observation is not above 0."""
        if min(observation for turns in series for turn in turns for observation in turn) <= 0:
            raise ValueError(f"what is timed must be above 0 {self.unit}")


def feeds(program: Program, examples: Examples) -> list[Any]:
    """Return BATCHES full batches in the runtime's own form.

    Examples that fill fewer batches are repeated. Raises ValueError if they do not fill one.
    """
    size = program.target.batch_size
    count = min(BATCHES, len(examples) // size)
    if count == 0:
        raise ValueError(f"the split has {len(examples)} samples, one batch needs {size}")
    chunks = [rows(examples.inputs, slice(i * size, (i + 1) * size)) for i in range(count)]
    feeds = [program.feed([t.contiguous() for t in flatten(chunk)[0]]) for chunk in chunks]
    return [feeds[i % count] for i in range(BATCHES)]
