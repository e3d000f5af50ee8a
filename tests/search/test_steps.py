"""The way from the baseline to a pick: one technique at a time, measured in turns."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from _examples import NEUTRAL, SPACE, record, summary

from objectives import Execution, Kind, Measurement, Operation
from search.evaluation import steps
from search.experiment.experiment import Experiment
from search.measuring import Crashed, MeasurementServer
from search.records import Record, Step
from search.reporting import html_tables
from spaces import Encoding

END = NEUTRAL | {
    "prune.channels.ratio": 0.3,
    "quantize.integer.weight_bits": 8,
    "quantize.integer.activation_bits": 8,
    "distill.logits.steps": 50,
    "deploy.runtime.name": "openvino",
}
POINT = {
    "prune.channels.ratio": 0.25,
    "quantize.integer.weight_bits": 8,
    "quantize.integer.activation_bits": 8,
    "distill.logits.steps": 3,
}


class Server:
    """Stands for the measuring server: each artifact takes half the time of the one before."""

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.seen: list[bool] = []

    def ceilings(self, *_: Any, **__: Any) -> Any:
        raise Crashed("no ceilings here")

    def chain(self, experiment: Experiment, artifacts: Sequence[Path], **_: Any) -> Any:
        if self.error:
            raise Crashed(self.error)
        self.seen = [(artifact / "manifest.json").is_file() for artifact in artifacts]
        half = Measurement(value=0.5, unit="ms", low=0.4, high=0.6, samples=3)
        return [{"latency": half} for _ in artifacts[1:]]


def measured(project: Path, server: Server) -> list[Step]:
    """Return the steps to a member whose artifact, like the baseline's, is imagined."""
    experiment = Experiment.load(project / "experiment.toml")
    space = experiment.space
    baseline = record(0, 0.9, 1.0, 10, point=space.neutral(), artifact="artifacts/0")
    member = record(5, 0.9, 0.2, 5, point=space.neutral() | POINT, artifact="artifacts/5")
    job = {
        "run": str(project / "run"),
        "records": [baseline.to_json(), member.to_json()],
        "members": [member.to_json()],
    }
    answer = steps.measure(experiment, job, cast(MeasurementServer, server))
    return [Step(**step) for step in answer["5"]]


def test_runtime_shape_and_bits_change_in_turn_and_training_is_left_out() -> None:
    stairs = steps.way(SPACE, NEUTRAL, END, "deploy.runtime.name")
    assert [stair.change for stair in stairs] == ["eager → openvino", "prune 0.3", "8/8 bit"]
    assert stairs[-1].point == END | {"distill.logits.steps": 0}
    assert steps.way(SPACE, NEUTRAL, NEUTRAL, "deploy.runtime.name") == []


def test_a_point_on_the_way_is_built_and_the_pick_is_its_own_artifact(project: Path) -> None:
    server = Server()
    found = measured(project, server)
    assert [(s.change, s.trial) for s in found] == [("prune 0.25", None), ("8/8 bit", 5)]
    assert all(s.ratio and s.ratio.value == 0.5 for s in found)
    assert server.seen == [False, True, False]  # the imagined ones have no files
    assert not (project / "run" / "artifacts" / "steps").exists()


def test_a_step_that_cannot_be_measured_says_why(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {s.reason for s in measured(project, Server("no memory"))} == {"no memory"}
    monkeypatch.setattr(steps, "BUILDS", 0)
    first, last = measured(project, Server())
    assert first.ratio is None
    assert "too many candidates" in str(first.reason)
    assert last.ratio is not None


def test_the_report_shows_gains_and_what_the_time_is_spent_on() -> None:
    execution = Execution.of(
        [Operation(name="a", kind=Kind.CONVOLUTION, precision="int8", seconds=1e-6)], Encoding()
    )
    taken = [
        {"change": "eager → openvino", "objective": "latency", "ratio": {"value": 0.25}},
        {"change": "8/8 <bit>", "objective": "latency", "reason": "none"},
    ]
    taken[0]["ratio"] = {"value": 0.25, "low": 0.2, "high": 0.5}
    base = summary()
    pick = base.picked["knee"]
    facts = dataclasses.replace(pick.facts, steps=taken, execution=execution)
    told = dataclasses.replace(pick, facts=facts)
    front = tuple(told if r.trial == pick.trial else r for r in base.front)
    changed = dataclasses.replace(base, front=front)
    table = html_tables.steps(changed)
    assert "4.00x" in table
    assert "2.00 to 5.00" in table
    assert "8/8 &lt;bit&gt;" in table
    assert "100 % in one int8 convolution" in html_tables.members(changed)
    assert html_tables.steps(base) == ""
    assert Record.from_json(told.to_json()) == told
