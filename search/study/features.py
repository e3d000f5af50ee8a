"""Features of points for a sampler: what a compression tool knows before it evaluates them."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from search.experiment import Goal
from search.records import Axis, Record
from search.samplers import Features
from spaces import Dimension, Point, Space, Stage, Value

Columns = list[tuple[str, float]]
"""Group and value of each feature of a point, or of a part of it."""
Matrix = NDArray[np.float64]

SAME = 1e-6
"""Squared distance below which two shapes are the same."""
LEAST = 0.01
"""What is added to a loss beyond the unchanged model's before its logarithm is taken."""
_SHAPE = frozenset({"shape", "left", "detail of shape"})
_ENCODING = frozenset({"bits", "dtype", "detail of encoding"})
_EXECUTION = frozenset({"runtime", "devices", "detail of deployment"})
_TRAINING = frozenset({"recovery", "detail of recovery", "untrained"})
_DETAIL = {
    Stage.SHAPE: "detail of shape",
    Stage.TRAIN: "detail of recovery",
    Stage.ENCODE: "detail of encoding",
    Stage.DEPLOY: "detail of deployment",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """What records tell of the shapes and encodings that were built."""

    untrained: tuple[Point, ...]
    """Complete points without training, one for each row of `left` and `lost`."""
    left: Matrix
    """Logarithms of the shares of weights and operations left, rows x 2."""
    lost: Matrix
    """Losses of the objectives that depend on training, rows x objectives."""
    timed: tuple[Point, ...]
    """Points that were probed, one for each row of `times`."""
    times: Matrix
    """Logarithms of the positive objectives that do not depend on training, rows x objectives;
    of rates, of which more is better, those of their inverse."""

    @classmethod
    def of(cls, space: Space, records: Sequence[Record], goals: Sequence[Goal]) -> "Known":
        """Return what records tell, of the baselines among others."""
        axes = [(goal, Axis.of(goal.name, goal.objective)) for goal in goals]
        scores = [axis for goal, axis in axes if goal.objective.trained]
        times = [a for goal, a in axes if not goal.objective.trained and a.positive]
        plain = [r for r in records if space.plan(r.point).recovery.steps == 0]
        built = [r for r in plain if r.state == "complete"]
        whole = max((_operations(r) for r in built), default=0.0)
        ideal = [axis.loss(built[0]) for axis in scores] if built else []
        probed = [r for r in records if times and all(a.name in r.measurements for a in times)]
        left = [_left(r, whole) for r in built]
        lost = [[_excess(a, r, best) for a, best in zip(scores, ideal, strict=True)] for r in built]
        return cls(
            untrained=tuple(r.point for r in built),
            left=np.array(left, dtype=np.float64).reshape(len(built), 2),
            lost=np.array(lost, dtype=np.float64).reshape(len(built), len(scores)),
            timed=tuple(r.point for r in probed),
            times=np.array(
                [[a.sign * math.log(a.value(r)) for a in times] for r in probed], dtype=np.float64
            ).reshape(len(probed), len(times)),
        )


class Describer:
    """Describes the points of a space by features.

    Groups are `shape` (settings of pruning), `left` (logarithms of weights and operations left),
    `bits`, `dtype`, `runtime`, `devices`, `recovery`, `untrained` (the losses of the same shape
    and encoding without training) and `time` (what is expected from others' times). What was
    measured of other points is interpolated.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._dimensions = space.dimensions()
        self._stages = {f"{s.name}.{f}": s.base.stage for s in space.slots for f in s.ranges}
        self._units = space.units()
        self._columns = functools.lru_cache(100_000)(self._columns_of)

    def describe(self, points: Sequence[Point], known: Known) -> Features:
        """Return the features of points, given what is known of shapes and encodings."""
        own, others = self._table(points), self._table(known.untrained)
        shape, encoding = _SHAPE, _SHAPE | _ENCODING
        left = _interpolated(own.part(shape), others.part(shape), known.left)
        lost = _interpolated(own.part(encoding), others.part(encoding), known.lost)
        times = self._times(own, left, others, known)
        parts = {"left": left, "untrained": lost, "time": times}
        groups = own.groups + tuple(g for g, part in parts.items() for _ in range(part.shape[1]))
        return Features(
            values=np.hstack([own.values, *parts.values()]),
            groups=groups,
            minor=frozenset(_DETAIL.values()) & frozenset(groups),
            training=_TRAINING & frozenset(groups),
            execution=_EXECUTION & frozenset(groups),
            timing=frozenset({"time"}) & frozenset(groups),
        )

    def _times(self, own: "_Table", left: Matrix, others: "_Table", known: Known) -> Matrix:
        """Return the times that are expected if all operations take what known ones took.

        Those of the same runtime count first, then those of the same encoding.
        """
        probed = self._table(known.timed)
        theirs = _interpolated(probed.part(_SHAPE), others.part(_SHAPE), known.left)
        paces = known.times - theirs[:, 1:]
        weights = {"runtime": 10.0, "devices": 10.0} | dict.fromkeys(_ENCODING, 3.0)
        groups = _SHAPE | _ENCODING | _EXECUTION
        pace = _interpolated(own.part(groups, weights), probed.part(groups, weights), paces)
        return pace + left[:, 1:]

    def _table(self, points: Sequence[Point]) -> "_Table":
        rows = [self._columns(tuple(point.items())) for point in points]
        example = rows[0] if rows else self._columns(tuple(self._space.neutral().items()))
        groups = tuple(group for group, _ in example)
        values = np.array([[value for _, value in row] for row in rows], dtype=np.float64)
        return _Table(groups=groups, values=values.reshape(len(rows), len(groups)))

    def _columns_of(self, items: tuple[tuple[str, Value], ...]) -> Columns:
        point = self._space.canonical(dict(items))
        columns: Columns = []
        for name, dimension in self._dimensions.items():
            group = self._group(name)
            columns += _encoded(dimension, point[name], self._units.get(name, ""), group)
        steps = self._space.plan(point).recovery.steps
        return [*columns, ("recovery", float(steps > 0)), ("recovery", math.log1p(steps) / 5)]

    def _group(self, name: str) -> str:
        stage, unit = self._stages[name], self._units.get(name, "")
        if stage is Stage.SHAPE and not self._named(name):
            return "shape"
        if unit.startswith("bits"):
            return "bits"
        if name == self._space.named("runtime"):
            return "runtime"
        if stage is Stage.ENCODE and unit == "floating-point type":
            return "dtype"
        return "devices" if unit == "devices" else _DETAIL[stage]

    def _named(self, name: str) -> bool:
        """True if the dimension's values are names or flags."""
        grid = self._dimensions[name].values()
        return grid is not None and any(isinstance(v, str | bool) for v in grid)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Table:
    groups: tuple[str, ...]
    values: Matrix

    def part(self, groups: frozenset[str], weights: Mapping[str, float] | None = None) -> Matrix:
        """Return the columns of some groups, each times its group's weight, 1 by default."""
        names = [(i, name) for i, name in enumerate(self.groups) if name in groups]
        scale = np.array([(weights or {}).get(name, 1.0) for _, name in names])
        return np.asarray(self.values[:, [i for i, _ in names]] * scale)


def _encoded(dimension: Dimension, value: Value, unit: str, group: str) -> Columns:
    """Return a value as features: names one by one, bits and wide ranges by their logarithm."""
    grid = dimension.values()
    if grid is not None and any(isinstance(v, str | bool) for v in grid):
        return [(group, float(value == option)) for option in grid]
    assert not isinstance(value, str)
    low, high = (grid[0], grid[-1]) if grid else (dimension.low, dimension.high)  # type: ignore[union-attr]
    assert not isinstance(low, str)
    assert not isinstance(high, str)
    if low > 0 and high >= 4 * low:
        return [(group, math.log(value / low) / math.log(high / low))]
    columns = [(group, (value - low) / ((high - low) or 1.0))]
    if unit.startswith("fraction") and low >= 0 and high < 1:
        columns.append(("left", math.log1p(-value)))
    return columns


def _interpolated(points: Matrix, known: Matrix, values: Matrix) -> Matrix:
    """Return values at points: those of the same known point, or weighted by inverse distance.

    Zeros if nothing is known. Source: Shepard 1968, with the squared distance.
    """
    if not len(known):
        return np.zeros((len(points), values.shape[1]))
    squares = ((points[:, None, :] - known[None, :, :]) ** 2).sum(axis=2)
    weights = 1 / np.maximum(squares, SAME) ** 2
    return np.asarray(weights @ values / weights.sum(axis=1, keepdims=True))


def _operations(record: Record) -> float:
    return float((record.facts.work or {}).get("operations") or 0.0)


def _left(record: Record, whole: float) -> tuple[float, float]:
    """Return the logarithms of the shares of weights and of operations left."""
    weights = math.log1p(-min(record.facts.weights_removed or 0.0, 1 - LEAST))  # it is rounded
    operations = _operations(record)
    return weights, math.log(operations / whole) if operations else weights


def _excess(axis: Axis, record: Record, ideal: float) -> float:
    """Return the logarithm of what a loss exceeds the unchanged model's by."""
    return math.log(max(axis.loss(record) - ideal, 0.0) + LEAST)
