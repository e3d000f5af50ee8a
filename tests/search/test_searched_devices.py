"""A searched number of devices, from the experiment to the report."""

import csv
import json
import os
from pathlib import Path

import pytest

from search.cli import parser
from search.experiment.experiment import Experiment
from search.experiment.feasibility import refusal_here
from search.study.opening import opening

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

PLACED = """
[space.placement.devices]
count = [1, 2]
strategy = ["auto", "data"]
"""
GOALS = """
[objectives.accuracy]

[objectives.throughput]
seconds = 0.02

[objectives.cost]
seconds = 0.02
"""

pytestmark = pytest.mark.slow  # processes that import the libraries anew


@pytest.fixture
def experiment(project: Path) -> Path:
    """The tiny experiment with placement, over accuracy, throughput and cost."""
    file = project / "experiment.toml"
    head, _, _ = file.read_text().partition("[objectives.accuracy]")
    head = head.partition("[space.distill.logits]")[0]
    runtime = '[space.deploy.runtime]\nname = ["null"]\n'
    file.write_text(head + PLACED + runtime + GOALS)
    return file


def test_the_opening_tries_several_devices(experiment: Path) -> None:
    points = opening(Experiment.load(experiment))
    assert any(p["placement.devices.count"] == 2 for p in points)


def test_more_devices_than_there_are_cost_nothing(experiment: Path) -> None:
    asked = Experiment.load(experiment)
    point = asked.space.neutral() | {"placement.devices.count": 2}
    many = asked.target.__class__(threads=max(CORES, 2))
    limited = type(asked)(**{**vars(asked), "target": many})
    reason = refusal_here(limited, limited.space.plan(point), frozenset({"Linear"}))
    assert reason is not None
    each, cores = max(CORES, 2), f"{CORES} core" + "s" * (CORES > 1)
    assert reason == f"2 devices were asked for, with {each} cores each, and this host has {cores}"


@pytest.mark.skipif(CORES < 2, reason="two devices need two cores")
def test_a_search_over_devices_ends_in_a_front_of_three_objectives(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert parser.main(["run", str(experiment), "--out", str(run), "--trials", "6"]) == 0
    capsys.readouterr()
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    placed = [r for r in records if r["point"]["placement.devices.count"] == 2]
    done = [r for r in placed if r["state"] == "complete"]
    assert done, [r["reason"] for r in records]
    for record in done:
        assert record["facts"]["placement"]["devices"] == 2
        chosen = record["point"]["placement.devices.strategy"] == "auto"
        wanted = "cannot be split" if chosen else "asked for"
        assert wanted in record["facts"]["placement"]["reason"]
        alone, two = (r["measurements"]["throughput"]["value"] for r in (records[0], record))
        if record["point"] == records[0]["point"] | {"placement.devices.count": 2}:
            assert two == pytest.approx(2 * alone)
            assert record["measurements"]["cost"]["value"] == pytest.approx(
                records[0]["measurements"]["cost"]["value"]
            )
    assert (run / "pareto.png").stat().st_size > 10_000
    assert "throughput" in (run / "report.html").read_text()
    with (run / "front.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert rows
    assert all(float(row["cost_device-s"]) > 0 for row in rows)
    assert parser.main(["front", str(run)]) == 0
    assert "2 devices" in capsys.readouterr().out
