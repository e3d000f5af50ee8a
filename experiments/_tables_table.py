"""A table of measured designs that a search can be replayed on."""

import dataclasses
import functools
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray

from search.samplers import Features
from search.samplers.structural import Parameters
from spaces import Choice, Point, Value

KNOWN = Path(__file__).with_name("tables.toml")
"""Descriptions of tables whose files have none of their own."""
METADATA = b"paretune"
"""Key of a table's description in its file: dimensions and objectives as JSON."""
QUANTILES = {"wide": 0.99, "tight": 0.5}
"""Quantile of the first objective's losses that is its reference; of the others it is the worst."""
ABSENT = -1
"""Value of a member of a family that a design does not have."""

Matrix = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Designs(Parameters):
    """The space of a table, in which one number may say how many members of families exist."""

    present: str | None = None

    def canonical(self, point: Mapping[str, Value]) -> Point:
        """Return the point with absent members at ABSENT, and others at a value that exists."""
        if self.present is None:
            return dict(point)
        count = int(point[self.present])
        simple = dict(point)
        for name, number, smallest in self._members:
            if number > count:
                simple[name] = ABSENT
            elif simple[name] == ABSENT:
                simple[name] = smallest
        return simple

    @functools.cached_property
    def _members(self) -> list[tuple[str, int, Value]]:
        """Names with a number that are absent in some designs, with their smallest real value."""
        found = {name: re.search(r"\d+$", name) for name in self.ranges}
        grids = {name: self.ranges[name].values() or () for name in self.ranges}
        return [
            (name, int(match[0]), grids[name][1])
            for name, match in found.items()
            if match and ABSENT in grids[name]
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Designs with their losses (lower is better) and the seconds that each took."""

    name: str
    space: Designs
    points: tuple[Point, ...]
    losses: Matrix
    """Rows x objectives, with the sign changed where more is better; NaN where a design failed."""
    seconds: Matrix
    timed: bool
    """True if the table tells the seconds; else each design takes one."""
    low: Matrix
    reference: Matrix

    @classmethod
    def read(cls, file: Path, quantile: str = "wide") -> "Table":
        """Read a table whose file, or tables.toml, describes it."""
        data = pyarrow.parquet.read_table(file)
        return cls.of(file.stem, data.to_pydict(), description(file, data), quantile)

    @classmethod
    def of(
        cls,
        name: str,
        columns: Mapping[str, Sequence[Any]],
        told: Mapping[str, Any],
        quantile: str = "wide",
    ) -> "Table":
        """Return the table of columns by name; `told` has dimensions and objectives."""
        names = told["dimensions"]
        chosen = {n: [_value(v, told) for v in columns[n]] for n in names}
        ranges = {n: Choice(tuple(dict.fromkeys(sorted(v, key=str)))) for n, v in chosen.items()}
        losses = np.stack([_losses(columns[o], d) for o, d in told["objectives"].items()], axis=1)
        worst = [np.nanquantile(losses[:, 0], QUANTILES[quantile]), *np.nanmax(losses, 0)[1:]]
        rows = zip(*chosen.values(), strict=True)
        return cls(
            name=name,
            space=Designs(ranges=ranges, present=told.get("present")),
            points=tuple(dict(zip(names, row, strict=True)) for row in rows),
            losses=losses,
            seconds=np.array(columns.get("seconds", [1.0] * len(losses)), dtype=float),
            timed="seconds" in columns,
            low=np.nanmin(losses, axis=0),
            reference=np.array(worst),
        )

    def volume(self, rows: Sequence[int]) -> float:
        """Return the normalized hypervolume of rows."""
        scaled = (self.losses[rows] - self.low) / (self.reference - self.low)
        whole = scaled[~np.isnan(scaled).any(axis=1)]
        return float(moocore.hypervolume(whole, ref=np.ones(whole.shape[1])))

    @functools.cached_property
    def maximum(self) -> float:
        """The hypervolume of all rows."""
        return self.volume(range(len(self.points)))

    @functools.cached_property
    def rows(self) -> dict[tuple[Value, ...], int]:
        """The row of each point's values."""
        return {tuple(point.values()): row for row, point in enumerate(self.points)}

    def row(self, point: Point) -> int | None:
        """Return the row of a point; None if the table lacks it."""
        return self.rows.get(tuple(point[name] for name in self.space.ranges))

    def remembered(
        self, describe: Callable[[Sequence[Point]], Features]
    ) -> Callable[[Sequence[Point]], Features]:
        """Return `describe` with the features of rows computed once, as a search asks for all."""
        own = describe(self.points)

        def features(points: Sequence[Point]) -> Features:
            rows = [self.row(point) for point in points]
            if any(row is None for row in rows):
                return describe(points)
            return dataclasses.replace(own, values=own.values[np.array(rows, dtype=np.intp)])

        return features

    def nearest(self, point: Point, unseen: NDArray[np.bool_]) -> int:
        """Return the nearest unseen row: steps of ordered values by their range, else unequal."""
        distances = np.zeros(len(self.points))
        for (name, codes), named in zip(self._codes.items(), self._named, strict=True):
            apart = np.abs(codes - self._code(name, point[name]))
            distances += apart > 0 if named else apart
        return int(np.argmin(np.where(unseen, distances, np.inf)))

    @functools.cached_property
    def _codes(self) -> dict[str, Matrix]:
        return {
            name: np.array([self._code(name, p[name]) for p in self.points])
            for name in self.space.ranges
        }

    @functools.cached_property
    def _named(self) -> list[bool]:
        grids = [d.values() or () for d in self.space.ranges.values()]
        return [any(isinstance(v, str | bool) for v in grid) for grid in grids]

    def _code(self, name: str, value: Value) -> float:
        """Return an ordered value scaled to 0..1, or the number of a named one."""
        grid = self.space.ranges[name].values() or ()
        if any(isinstance(v, str | bool) for v in grid):
            return float(grid.index(value))
        low, high = float(grid[0]), float(grid[-1])
        return (float(value) - low) / ((high - low) or 1.0)


def description(file: Path, data: Any) -> dict[str, Any]:
    """Return the description of a table: that of its file, else that of tables.toml."""
    told = (data.schema.metadata or {}).get(METADATA)
    known = json.loads(told) if told else tomllib.loads(KNOWN.read_text()).get(file.stem)
    if known is None:
        raise SystemExit(f"{file} has no metadata {METADATA.decode()!r}: describe it in {KNOWN}")
    return dict(known)


def _value(value: Any, told: Mapping[str, Any]) -> Value:
    return str(value) if told.get("nominal") else value  # type: ignore[no-any-return]


def _losses(values: Sequence[Any], direction: str) -> Matrix:
    numbers = np.array([np.nan if v is None else v for v in values], dtype=float)
    return -numbers if direction == "max" else numbers
