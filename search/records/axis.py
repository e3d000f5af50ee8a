"""Axis: one objective of a front, with its words and steps."""

import dataclasses
import math
from typing import Self

from objectives import Direction, Objective
from search.errors import BadRun
from search.records.record import Record

SCORE_STEP = 0.1
"""Length of one step on a score axis, as a share of the baseline's score. On a ratio axis one
step is a factor of 2."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """One objective as an axis of the front."""

    name: str
    direction: Direction
    unit: str
    positive: bool = False
    """True if values are always above zero: gains are then factors, compared in the logarithm."""
    is_time: bool = False
    """True if values are times, so that a gain is a speed-up."""
    better: tuple[str, str] | None = None
    """Words after a factor of gain and of loss: 4.71x faster, 1.20x slower."""
    superlative: str | None = None
    """Word for the best member on this axis, such as "fastest"."""

    @classmethod
    def of(cls, name: str, objective: Objective) -> Self:
        """Return the axis of an objective."""
        return cls(
            name=name,
            direction=objective.direction,
            unit=objective.unit,
            positive=objective.positive,
            is_time=objective.is_time,
            better=objective.better,
            superlative=objective.superlative,
        )

    @property
    def sign(self) -> int:
        """1 if lower is better, -1 if higher is."""
        return 1 if self.direction is Direction.MINIMIZE else -1

    def value(self, record: Record) -> float:
        """Return the record's value in the axis' unit; raises BadRun if it was not measured."""
        if self.name not in record.measurements:
            raise BadRun(f"trial {record.trial} is {record.state} but has no {self.name}.")
        return record.measurements[self.name].value

    def loss(self, record: Record) -> float:
        """Return the value, negated if higher is better, so that lower is better."""
        return self.sign * self.value(record)

    def steps(self, record: Record, baseline: Record) -> float:
        """Return by how many steps the record is worse than the baseline; negative is better.

        A step is a factor of 2 on a ratio axis, and SCORE_STEP of the baseline's value on others.
        """
        value, start = self.value(record), self.value(baseline)
        if self.positive:
            return self.sign * math.log2(value / start)
        return self.sign * (value - start) / (SCORE_STEP * (abs(start) or 1.0))


def gain(record: Record, axis: Axis, baseline: Record) -> float:
    """Return the factor by which the record is better than the baseline; above 1 is better."""
    ratio = axis.value(baseline) / axis.value(record)
    return ratio if axis.direction is Direction.MINIMIZE else 1 / ratio
