"""A recorded grid holds every point once, with the seconds that a replay has to charge."""

import json
import sys
from pathlib import Path

import pytest
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import _grid
import _grid_table
import record_grid

from objectives import Measurement
from search import Experiment, Record
from search.records import Facts
from spaces import Point

GRID = Path(record_grid.__file__).parent / "grids" / "digits.toml"


@pytest.fixture
def grid() -> Experiment:
    return record_grid.read(GRID)


def measured(value: float, unit: str) -> Measurement:
    return Measurement(value=value, unit=unit, low=value, high=value, samples=3)


def evaluated(trial: int, point: Point, latency: float, **seconds: float) -> Record:
    return Record(
        trial=trial,
        point=point,
        runtime="eager",
        state="complete",
        measurements={"accuracy": measured(0.9, "score"), "latency": measured(latency, "ms")},
        facts=Facts(seconds=seconds, size=100 + trial),
        seconds=sum(seconds.values()),
    )


def test_every_canonical_point_is_proposed_once_the_shortest_training_first(
    grid: Experiment,
) -> None:
    points = _grid.points(grid.space, [dict(p) for p in grid.sampler.settings["leave_out"]])
    assert len(points) == grid.trials == 4
    assert len({_grid.key(p) for p in points}) == 4
    assert all(grid.space.canonical(p) == p for p in points)
    assert [p["distill.logits.steps"] for p in points] == [0, 0, 40, 40]
    assert len(_grid.points(grid.space)) == 6  # with the neutral temperature, which is left out


def test_what_trials_share_is_told_and_charged_to_each_that_is_alone(grid: Experiment) -> None:
    whole, pruned, _, trained = _grid.points(
        grid.space, [dict(p) for p in grid.sampler.settings["leave_out"]]
    )
    records = [
        evaluated(0, whole, 2.0, reference=0.5, shape=0.1, probe=1.0, measure=2.0),
        evaluated(1, pruned, 1.0, reference=0.5, shape=8.0, probe=1.0, measure=2.0),
        evaluated(2, trained, 1.0, reference=0.5, shape=0.2, probe=1.5, train=9.0, deploy=1.0),
        evaluated(3, trained, 1.0, reference=0.5, shape=0.2, probe=1.5, train=0.1, deploy=1.0),
    ]
    rows = _grid_table.rows(grid.space, grid.objectives, records)
    assert [row["seconds_shape"] for row in rows] == [0.1, 8.0, 8.0, 8.0]
    assert [row["seconds_train"] for row in rows] == [0.0, 0.0, 9.0, 9.0]
    assert [row["from_cache"] for row in rows] == ["", "", "shape", "shape train"]
    assert rows[1]["shape"] == rows[2]["shape"] != rows[0]["shape"]
    assert rows[2]["training"] == rows[3]["training"] != rows[1]["training"]
    assert [row["seconds"] for row in rows] == [r.seconds for r in records]
    assert rows[3]["seconds_alone"] == pytest.approx(0.5 + 8.0 + 1.5 + 9.0 + 1.0)
    assert [row["seconds_to_probe"] for row in rows] == [1.6, 9.5, 10.0, 10.0]


def test_a_value_is_the_one_that_the_search_saw(grid: Experiment) -> None:
    record = evaluated(0, grid.space.neutral(), 3.0, measure=1.0)
    searched = {"latency": measured(2.0, "ms").to_json()}
    facts = Facts(during_search=searched, seconds={"measure": 1.0})
    confirmed = Record(**{**vars(record), "facts": facts})
    (row,) = _grid_table.rows(grid.space, grid.objectives, [confirmed])
    assert (row["latency"], row["accuracy"], row["latency_high"]) == (2.0, 0.9, 2.0)


def test_an_unmeasured_point_has_its_state_and_no_value(grid: Experiment, tmp_path: Path) -> None:
    point = grid.space.neutral()
    record = Record(trial=0, point=point, runtime="eager", state="infeasible", reason="no kernels")
    table = _grid_table.write(tmp_path / "t.parquet", grid, [record], {"date": "today"})
    (row,) = table.to_pylist()
    assert (row["state"], row["reason"], row["latency"]) == ("infeasible", "no kernels", None)
    told = json.loads(parquet.read_schema(tmp_path / "t.parquet").metadata[b"paretune"])
    assert told["objectives"] == {"accuracy": "max", "latency": "min"}
    assert told["dimensions"] == list(point)
    assert told["date"] == "today"


@pytest.mark.slow
def test_a_grid_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    out, run = tmp_path / "digits.parquet", tmp_path / "run"
    record_grid.record(record_grid.read(GRID, limit=2), out, run)
    first = parquet.read_table(out).to_pylist()
    record_grid.record(record_grid.read(GRID), out, run)
    table = parquet.read_table(out).to_pylist()
    assert (len(first), len(table)) == (2, 4)
    points = {_grid.key({k: row[k] for k in row if k.count(".") == 2}) for row in table}
    assert len(points) == 4
    assert {row["state"] for row in table} == {"complete"}
    assert all(row["latency_low"] <= row["latency"] <= row["latency_high"] for row in table)
    assert [row["trial"] for row in table[:2]] == [row["trial"] for row in first]
