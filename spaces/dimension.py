"""Dimensions: the allowed values, unit and neutral value of a searched field."""

import dataclasses
import functools
import math
from typing import Any

Value = bool | int | float | str


@dataclasses.dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`: a grid of width `step`, or continuous if `step` is None.

    Raises ValueError unless low <= high are finite and step > 0; `log` needs low > 0 and no step.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    """Sample evenly in the logarithm; only without a step."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(
                f"an interval needs finite low <= high, got {self.low} and {self.high}"
            )
        if self.step is not None and self.step <= 0:
            raise ValueError(f"an interval's step must be positive, got {self.step}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a log interval needs low > 0 and no step")

    def values(self) -> tuple[float, ...] | None:
        """Return the grid from low to high, rounded to 10 digits; None if it is continuous."""
        return None if self.step is None else _grid(self.low, self.high, self.step)

    def holds(self, value: Value) -> bool:
        """Return True if `value` is allowed."""
        if isinstance(value, str | bool):
            return False
        grid = self.values()
        if grid is None:
            return self.low <= value <= self.high
        return any(math.isclose(value, v, abs_tol=1e-9) for v in grid)


@functools.lru_cache(64)
def _grid(low: float, high: float, step: float) -> tuple[float, ...]:
    """Return low, low + step, ... up to high; cached, since searches read it constantly."""
    count = math.floor((high - low) / step + 1e-9) + 1
    return tuple(round(low + i * step, 10) for i in range(count))


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few values. Numbers are sorted in ascending order, so that samplers see the order.

    Raises ValueError without options or with equal ones.
    """

    options: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) < len(self.options):
            raise ValueError(f"a choice needs distinct values, got {list(self.options)}")
        if not any(isinstance(v, str | bool) for v in self.options):
            object.__setattr__(self, "options", tuple(sorted(self.options)))

    def values(self) -> tuple[Value, ...]:
        """Return the options in order."""
        return self.options

    def holds(self, value: Value) -> bool:
        """Return True if `value` is allowed."""
        return any(
            value == v and isinstance(value, str) == isinstance(v, str) for v in self.options
        )


@dataclasses.dataclass(frozen=True)
class Entries:
    """The names of the catalogue `kind`, such as the runtimes.

    The reader of an experiment replaces it with a Choice of the names.
    """

    kind: str

    def values(self) -> tuple[Value, ...]:
        """Return an empty tuple: this package does not know the catalogue."""
        return ()

    def holds(self, value: Value) -> bool:
        """Return True if `value` can be a name."""
        return isinstance(value, str)


Dimension = Interval | Choice | Entries


def choice(*options: Value) -> Choice:
    """Return a Choice of `options`."""
    return Choice(options)


def axis(
    neutral: Any,
    dimension: Dimension,
    *,
    unit: str,
    short: str | None = None,
    on_request: bool = False,
) -> Any:
    """Declare a searched field of a technique; `neutral` is the value at which nothing changes.

    `short` is the format of a number in tables, such as "prune {value}"; an empty string leaves
    the field out, and None puts the field's name before the number. A field with `on_request`
    qualifies another field, such as the criterion of a pruning ratio: it is searched only if an
    experiment lists its values, and fixed if the experiment gives one.
    """
    metadata = {"dimension": dimension, "unit": unit, "short": short, "on_request": on_request}
    return dataclasses.field(default=neutral, metadata=metadata)
