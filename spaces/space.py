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
    """One technique of a space: what is fixed and what is searched."""

    name: str
    """Path of the technique's file, e.g. prune.channels."""
    base: Technique
    """The fixed settings; searched fields at their neutral values."""
    ranges: dict[str, Dimension]

    def at(self, point: Mapping[str, Value]) -> Technique:
        """Return the setting at a point; a dimension that the point lacks is neutral."""
        own = {f: point[f"{self.name}.{f}"] for f in self.ranges if f"{self.name}.{f}" in point}
        return dataclasses.replace(self.base, **own)

    def values(self, setting: Technique) -> Point:
        """Return the part of a point that `setting` stands for."""
        return {f"{self.name}.{f}": getattr(setting, f) for f in self.ranges}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """Techniques in the order in which an experiment names them."""

    slots: tuple[Slot, ...]
    outputs: Outputs = dataclasses.field(default_factory=Outputs)
    """What is known of the model's outputs."""

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
        """Return what a point asks of training, encoding and deployment."""
        plan = Plan()
        for setting in self.settings(point):
            plan = setting.plan(plan)
        return plan

    def canonical(self, point: Mapping[str, Value]) -> Point:
        """Return the simplest point that builds the same candidate: dead dimensions neutral.

        First each technique by itself, then in view of what all of them together ask for, and of
        the model's outputs.
        """
        alone = {k: v for s in self.slots for k, v in s.values(s.at(point).canonical()).items()}
        plan = self.plan(alone)
        settled = [(s, s.at(alone).settled(plan, self.outputs)) for s in self.slots]
        return {k: v for slot, setting in settled for k, v in slot.values(setting).items()}

    def name_of(self, setting: Technique) -> str:
        """Return the name of the slot that a setting belongs to."""
        return next(s.name for s in self.slots if type(s.base) is type(setting))

    def short(self, point: Mapping[str, Value]) -> str:
        """Return a point in short, without what is neutral: `prune 0.3 · 8/8 bit · T4 200 steps`.

        The runtime is left out: it is told beside the point.
        """
        parts = [slot.at(point).short(slot.ranges) for slot in self.slots]
        return " · ".join(filter(None, parts)) or "unchanged"

    def named(self, kind: str) -> str | None:
        """Return the name of the dimension of a catalogue's names; None where none is searched."""
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
        """Return the number of points; infinity when a dimension is continuous."""
        counts = [len(v) if (v := d.values()) else math.inf for d in self.dimensions().values()]
        return math.prod(counts)


def widened(dimension: Dimension, neutral: Value) -> Dimension:
    """Return `dimension` holding `neutral` too: the baseline must be a point of the space."""
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
    """Return a float rounded to 10 digits: samplers return 0.30000000000000004."""
    return round(value, 10) if isinstance(value, float) else value


def drawn(dimension: Dimension, draw: random.Random) -> Value:
    """Return one of a dimension's values."""
    grid = dimension.values()
    if grid:
        return draw.choice(grid)
    assert isinstance(dimension, Interval)
    return rounded(draw.uniform(dimension.low, dimension.high))
