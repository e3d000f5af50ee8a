"""Start a search from the front of another run: its points, as far as the new space has them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from search.experiment import Experiment
from search.records import Record
from spaces import Dimension, Interval, Point, Value

Front = tuple[str, Record, Sequence[Record]]
"""Path of a run, its baseline and the members of its front."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Points with which a search starts after its baselines, and the run that they come from."""

    run: str
    """Absolute path of the run."""
    points: tuple[Point, ...]
    """Settings that differ from the fastest baseline, one point for each member of the front."""
    told: str
    """What became of the members, one line."""

    @classmethod
    def of(
        cls, experiment: Experiment, run: str, baseline: Record, members: Sequence[Record]
    ) -> Self:
        """Return the members of another run's front as points of the experiment's space.

        A number outside of it becomes the nearest one. Other settings that it lacks are left out:
        of a runtime, the fastest one takes its place.
        """
        changes: dict[str, None] = {}
        points: list[Point] = []
        for member in members:
            point = _fitted(experiment, member.point, baseline.point, changes)
            if point and point not in points:
                points.append(point)
        count = f"{len(points)} point{'s' * (len(points) != 1)}"
        lost = f"; not in this space: {', '.join(changes)}" if changes else ""
        return cls(run=run, points=tuple(points), told=f"starts from {count} of {run}{lost}")

    def to_json(self) -> dict[str, Any]:
        """Return the start as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the start that `to_json` described."""
        return cls(run=data["run"], points=tuple(data["points"]), told=data["told"])


def _fitted(
    experiment: Experiment, point: Point, neutral: Point, changes: dict[str, None]
) -> Point:
    """Return the settings of `point` that the space has; `changes` gets those that it lacks."""
    dimensions, runtime = experiment.space.dimensions(), experiment.space.named("runtime")
    fitted: Point = {}
    for name, value in point.items():
        if name in dimensions:
            found = _nearest(dimensions[name], value)
            if found is not None:
                fitted[name] = found
            if found != value:
                instead = "the fastest" if name == runtime else "unchanged"
                instead = instead if found is None else f"{found}"
                changes[f"{name} = {value} (now {instead})"] = None
        elif value != neutral.get(name):
            changes[f"{name} = {value}"] = None
    return fitted


def _nearest(dimension: Dimension, value: Value) -> Value | None:
    """Return the allowed number nearest to `value`; None for another value that is not allowed."""
    if dimension.holds(value):
        return value
    if isinstance(value, str | bool):
        return None
    grid = dimension.values()
    if grid is None:
        assert isinstance(dimension, Interval)
        return min(max(value, dimension.low), dimension.high)
    numbers = [v for v in grid if not isinstance(v, str | bool)]
    return min(numbers, key=lambda v: abs(v - value), default=None)
