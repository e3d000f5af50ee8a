"""The replay of tables: their hypervolume, their clock, and what answers a suggestion."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

from _tables_players import PLAYERS, Player
from _tables_table import Table
from tables import replay

from spaces import Point

TOLD = {"dimensions": ["width", "kind"], "objectives": {"accuracy": "max", "latency": "min"}}
COLUMNS = {
    "width": [1, 1, 2, 2, 4],
    "kind": ["a", "b", "a", "b", "a"],
    "accuracy": [0.5, 0.4, 0.7, 0.6, 0.9],
    "latency": [1.0, 2.0, 2.0, 3.0, 4.0],
    "seconds": [10.0, 1.0, 2.0, 3.0, 4.0],
}
SHARED = Path(__file__).parents[2].parent / "shared" / "tables"
"""Where the two tables lie if someone has them: they are not part of the repository."""


def table() -> Table:
    return Table.of("made up", COLUMNS, TOLD)


class Script(Player):
    """Suggests given points, and keeps what it was told."""

    def __init__(self, *points: Point) -> None:
        self.waiting, self.told = list(points), list[int]()

    def ask(self, running: Sequence[int], unseen: NDArray[np.bool_]) -> Point:
        return self.waiting.pop(0)

    def tell(self, proposed: Point, row: int) -> None:
        self.told.append(row)


def test_the_hypervolume_is_normalized_by_the_best_and_the_references() -> None:
    """Errors 0.5 0.4 0.3 0.1 have the best 0.1 and the 0.99 quantile 0.596, times 1 to 4."""
    x = (np.array([0.5, 0.3, 0.1]) - 0.1) / (0.596 - 0.1)
    y = (np.array([1.0, 2.0, 4.0]) - 1.0) / 3.0
    expected = (1.0 - x[1]) * (1.0 - y[1]) + (1.0 - x[0]) * (y[1] - y[0])
    assert table().maximum == pytest.approx(expected)
    assert table().volume([0]) == pytest.approx(1.0 - x[0])


@pytest.mark.parametrize(
    ("name", "maximum"), [("nb201-2080ti", 0.978650533), ("gpt-s-h100", 0.614068583)]
)
def test_the_hypervolume_of_known_tables(name: str, maximum: float) -> None:
    file = SHARED / f"{name}.parquet"
    if not file.exists():
        pytest.skip(f"the table {file.name} is not part of the repository")
    assert Table.read(file).maximum == pytest.approx(maximum, abs=1e-8)


def test_a_file_describes_itself(tmp_path: Path) -> None:
    data = pa.table(COLUMNS).replace_schema_metadata({b"paretune": json.dumps(TOLD).encode()})
    pyarrow.parquet.write_table(data, tmp_path / "made.parquet")
    assert Table.read(tmp_path / "made.parquet").maximum == pytest.approx(table().maximum)


def test_known_suggestions_are_free_and_others_get_the_nearest_unseen_row() -> None:
    wide: Point = {"width": 4, "kind": "b"}
    player = Script({"width": 1, "kind": "a"}, {"width": 1, "kind": "a"}, wide, wide)
    result = replay(table(), player, 0, [2.0], 3, 1)
    assert result.evaluations == 3
    assert player.told == [0, 0, 3, 1]  # of equally near ones the first


def test_the_clock_counts_rows_side_by_side() -> None:
    points: list[Point] = [{"width": 1, "kind": "a"}, {"width": 1, "kind": "b"}]
    points += [{"width": 2, "kind": "a"}, {"width": 2, "kind": "b"}, {"width": 4, "kind": "a"}]
    player = Script(*points)
    result = replay(table(), player, 0, [1.0], 5, 2)
    evaluations, seconds = result.reached["1"]
    assert evaluations == 4
    assert player.told == [1, 2, 3, 0]  # the slowest design is at the reference and adds nothing
    assert seconds == pytest.approx(10.0 + sum(result.asking), abs=0.5)


def test_absent_members_have_one_form() -> None:
    told = {
        "dimensions": ["depth", "heads_1", "heads_2"],
        "objectives": {"error": "min", "latency": "min"},
        "present": "depth",
    }
    columns = {
        "depth": [1, 2, 2], "heads_1": [4, 4, 8], "heads_2": [-1, 8, 4],
        "error": [3.0, 2.0, 1.0], "latency": [1.0, 2.0, 3.0],
    }  # fmt: skip
    space = Table.of("family", columns, told).space
    shallow: Point = {"depth": 1, "heads_1": 4, "heads_2": 8}
    assert space.canonical(shallow) == {"depth": 1, "heads_1": 4, "heads_2": -1}
    deep: Point = {"depth": 2, "heads_1": 4, "heads_2": -1}
    assert space.canonical(deep) == {"depth": 2, "heads_1": 4, "heads_2": 4}


@pytest.mark.parametrize("name", ["structural", "tpe", "nsga2-20", "random"])
def test_samplers_find_everything_in_the_end(name: str) -> None:
    result = replay(table(), PLAYERS[name](table(), 0), 0, [1.0], 5, 1)
    assert result.reached["1"][0] <= 5
