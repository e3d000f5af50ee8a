"""Features of points for a sampler: what a compression tool knows before it evaluates them."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from search.records import Axis, Record
from search.samplers import Features
from spaces import Dimension, Point, Space, Stage, Value

Columns = list[tuple[str, float]]
"""Group and value of each feature of a point, or of a part of it."""
Matrix = NDArray[np.float64]

SAME = 1e-6
"""Squared distance below which two shapes are the same."""
TRAINING = frozenset({"recovery", "detail of recovery", "untrained"})
"""Groups on which only objectives that depend on recovery training depend."""
_DETAIL = {
    Stage.SHAPE: "detail of shape",
    Stage.TRAIN: "detail of recovery",
    Stage.ENCODE: "detail of encoding",
    Stage.DEPLOY: "detail of deployment",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """What records tell of the shapes and encodings that were built."""

    points: tuple[Point, ...]
    """Untrained points, one for each row of `left` and `lost`."""
    left: Matrix
    """Logarithms of the shares of weights and operations left, rows x 2."""
    lost: Matrix
    """Losses of the objectives that depend on training, rows x objectives."""

    @classmethod
    def of(cls, space: Space, records: Iterable[Record], axes: Sequence[Axis]) -> "Known":
        """Return what the untrained complete records tell; `axes` are those of trained losses."""
        complete = [r for r in records if r.state == "complete"]
        rows = [r for r in complete if space.plan(r.point).recovery.steps == 0]
        whole = max((_operations(r) for r in rows), default=0.0)
        left = [
            (math.log1p(-(r.facts.weights_removed or 0.0)), math.log(_operations(r) / whole))
            if whole
            else (math.log1p(-(r.facts.weights_removed or 0.0)), 0.0)
            for r in rows
        ]
        lost = [[_error(axis.loss(r)) for axis in axes] for r in rows]
        return cls(
            points=tuple(r.point for r in rows),
            left=np.array(left, dtype=np.float64).reshape(len(rows), 2),
            lost=np.array(lost, dtype=np.float64).reshape(len(rows), len(axes)),
        )


class Describer:
    """Describes the points of a space by features.

    Groups are `shape` (settings of pruning), `left` (logarithms of weights and operations left),
    `bits`, `dtype`, `runtime`, `devices`, `recovery`, and `untrained` (the losses of the same shape
    and encoding without training). What was measured of other shapes is interpolated.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._dimensions = space.dimensions()
        self._stages = {f"{s.name}.{f}": s.base.stage for s in space.slots for f in s.ranges}
        self._units = space.units()
        self._columns = functools.lru_cache(100_000)(self._columns_of)

    def describe(self, points: Sequence[Point], known: Known) -> Features:
        """Return the features of points, given what is known of shapes and encodings."""
        own = self._table(points)
        groups = own.groups
        others = self._table(known.points)
        shape = [i for i, g in enumerate(groups) if g in ("shape", "left", "detail of shape")]
        encoding = [i for i, g in enumerate(groups) if g in ("bits", "dtype", "detail of encoding")]
        left = _interpolated(own.values[:, shape], others.values[:, shape], known.left)
        both = [*shape, *encoding]
        lost = _interpolated(own.values[:, both], others.values[:, both], known.lost)
        groups += ("left",) * left.shape[1] + ("untrained",) * lost.shape[1]
        return Features(
            values=np.hstack([own.values, left, lost]),
            groups=groups,
            minor=frozenset(_DETAIL.values()) & frozenset(groups),
            training=TRAINING & frozenset(groups),
        )

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


def _error(loss: float) -> float:
    """Return the logarithm of the error of a score from 0 to 1, other losses as they are."""
    return math.log(max(1 + loss, 1e-4)) if -1 <= loss <= 0 else loss
