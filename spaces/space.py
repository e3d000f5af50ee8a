"""The space of an experiment: techniques with their searched dimensions, and points in it."""

import dataclasses
import math
import random
from collections.abc import Mapping
from typing import Any

from spaces.dimension import Choice, Dimension, Entries, Interval, Value
from spaces.outputs import Outputs
from spaces.plan import Plan
from spaces.technique import Stage, Technique

Point = dict[str, Value]
"""One value per searched dimension, by name: {"prune.channels.ratio": 0.3}."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot:
    """One technique of a space: its fixed settings and its searched dimensions."""

    name: str
    """Path of the technique's file, e.g. prune.channels."""
    base: Technique
    """The fixed settings; searched fields at their neutral values."""
    ranges: dict[str, Dimension]
    """The dimensions of the searched fields, by field."""

    def at(self, point: Mapping[str, Value]) -> Technique:
        """Return the setting at a point; a dimension that the point lacks is neutral."""
        values = {f: point[f"{self.name}.{f}"] for f in self.ranges if f"{self.name}.{f}" in point}
        return dataclasses.replace(self.base, **values)

    def values(self, setting: Technique) -> Point:
        """Return the values of the searched fields in `setting`, as a part of a point."""
        return {f"{self.name}.{f}": getattr(setting, f) for f in self.ranges}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """Techniques in the order in which an experiment names them."""

    slots: tuple[Slot, ...]
    outputs: Outputs = dataclasses.field(default_factory=Outputs)
    """Facts about the outputs of the task's model."""

    def dimensions(self) -> dict[str, Dimension]:
        """Return every searched dimension by name."""
        return {f"{s.name}.{f}": d for s in self.slots for f, d in s.ranges.items()}

    def units(self) -> dict[str, str]:
        """Return the unit of every dimension by name."""
        return {
            f"{s.name}.{f.name}": str(f.metadata["unit"])
            for s in self.slots
            for f in dataclasses.fields(s.base)
            if f.name in s.ranges
        }

    def neutral(self) -> Point:
        """Return the point at which every technique changes nothing."""
        return {name: value for s in self.slots for name, value in s.values(s.base).items()}

    def settings(self, point: Mapping[str, Value]) -> tuple[Technique, ...]:
        """Return the settings of a point in the order in which they take effect."""
        return tuple(sorted((s.at(point) for s in self.slots), key=lambda t: (t.stage, t.rank)))

    def plan(self, point: Mapping[str, Value]) -> Plan:
        """Return the plan of a point: the plans of all its settings combined."""
        plan = Plan()
        for setting in self.settings(point):
            plan = setting.plan(plan)
        return plan

    def canonical(self, point: Mapping[str, Value]) -> Point:
        """Return the simplest point that builds the same candidate: unused dimensions are neutral.

        Each technique is simplified by itself first, then given the plan of all of them and the
        model's outputs.
        """
        simple = {k: v for s in self.slots for k, v in s.values(s.at(point).canonical()).items()}
        plan = self.plan(simple)
        settled = [(s, s.at(simple).settled(plan, self.outputs)) for s in self.slots]
        return {k: v for slot, setting in settled for k, v in slot.values(setting).items()}

    def name_of(self, setting: Technique) -> str:
        """Return the name of the slot that a setting belongs to."""
        return next(s.name for s in self.slots if type(s.base) is type(setting))

    def short(self, point: Mapping[str, Value]) -> str:
        """Return a point in short, without neutral values: `prune 0.3 · 8/8 bit · T4 200 steps`.

        The runtime is left out: tables show it next to the point.
        """
        parts = [slot.at(point).short(slot.ranges) for slot in self.slots]
        return " · ".join(filter(None, parts)) or "unchanged"

    def named(self, kind: str) -> str | None:
        """Return the name of the dimension over catalogue `kind`; None if it is not searched."""
        for slot in self.slots:
            for field in dataclasses.fields(slot.base):
                if field.name in slot.ranges and field.metadata["dimension"] == Entries(kind):
                    return f"{slot.name}.{field.name}"
        return None

    def shape(self, point: Mapping[str, Value]) -> dict[str, Any]:
        """Return the settings of stage SHAPE as plain data, for cache keys and manifests."""
        return {
            s.name: dataclasses.asdict(s.at(point))
            for s in self.slots
            if s.base.stage is Stage.SHAPE
        }

    def size(self) -> float:
        """Return the number of points; infinity if a dimension is continuous."""
        counts = [len(v) if (v := d.values()) else math.inf for d in self.dimensions().values()]
        return math.prod(counts)


def widened(dimension: Dimension, neutral: Value) -> Dimension:
    """Return `dimension` extended by `neutral`: the baseline must be a point of the space."""
    if dimension.holds(neutral):
        return dimension
    grid = dimension.values()
    if grid is None:
        assert isinstance(dimension, Interval)
        assert not isinstance(neutral, str)
        low, high = min(dimension.low, neutral), max(dimension.high, neutral)
        return Interval(low, high, log=dimension.log and low > 0)
    return Choice((neutral, *grid))


def rounded(value: Value) -> Value:
    """Round a float to 10 digits, since samplers return values like 0.30000000000000004."""
    return round(value, 10) if isinstance(value, float) else value


def drawn(dimension: Dimension, draw: random.Random) -> Value:
    """Return a value of `dimension` that `draw` draws uniformly."""
    grid = dimension.values()
    if grid:
        return draw.choice(grid)
    assert isinstance(dimension, Interval)
    return rounded(draw.uniform(dimension.low, dimension.high))
