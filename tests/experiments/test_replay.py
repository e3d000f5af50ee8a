"""Replays of whole searches: what they charge, and that they end where the table does."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from search import Experiment

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import record_grid
import replay
from _grid import points

SECONDS = {"reference": 1.0, "prepare": 0.0, "probe": 2.0, "deploy": 1.0, "profile": 0.0}


@pytest.fixture
def table(project: Path) -> replay.Table:
    """A table of the experiment of a user: pruning makes it faster, and training mends it."""
    experiment = record_grid.read(project / "experiment.toml")
    rows = [row(experiment, point) for point in points(experiment.space)]
    pd.DataFrame(rows).to_parquet(project / "table.parquet")
    return replay.Table.read(project / "table.parquet", experiment)


def row(experiment: Experiment, point: dict[str, object]) -> dict[str, object]:
    ratio, steps = float(str(point["prune.channels.ratio"])), point["distill.logits.steps"]
    accuracy = 0.9 - ratio**2 * (0.1 if steps else 0.4)
    latency = (1.0 - 0.7 * ratio) * (0.5 if point["quantize.integer.weight_bits"] == 8 else 1.0)
    shape = json.dumps(experiment.space.shape(point), sort_keys=True)
    values = {"accuracy": accuracy, "latency": latency, "size": 1000.0 * latency}
    bounds = {f"{k}_{end}": v for k, v in values.items() for end in ("low", "high")}
    seconds = SECONDS | {"shape": 20.0 * (ratio > 0), "train": 30.0 * bool(steps), "measure": 3.0}
    return {
        **point,
        **values,
        **bounds,
        **{f"seconds_{stage}": value for stage, value in seconds.items()},
        "seconds_alone": sum(seconds.values()),
        "state": "complete",
        "shape": shape,
        "training": f"{steps} {point['distill.logits.temperature']} {shape}" if steps else "",
        "weights_removed": ratio,
        "operations": 1000.0 * (1 - ratio),
    }


def test_a_search_comes_to_the_whole_front(table: replay.Table) -> None:
    trace = replay.engine(table, seed=0, trials=25)
    assert trace.shares == sorted(trace.shares)
    assert trace.seconds == sorted(trace.seconds)
    assert trace.shares[-1] >= 0.98
    reached = trace.reached(0.98)
    assert reached is not None
    assert reached[0] <= len(trace.shares)
    assert trace.reached(1.1) is None


def test_shapes_and_trainings_are_paid_once(table: replay.Table) -> None:
    clock = replay.Clock()
    trained = next(r for r in table.rows.values() if r["training"] and r["seconds_shape"])
    clock.spend(trained)
    first = clock.seconds
    clock.spend(trained)
    assert clock.seconds - first == pytest.approx(first - 50.0)
    clock.spend(trained, probe=True)
    assert clock.seconds == pytest.approx(2 * first - 50.0 + 3.0)
