"""Layers timed alone: every width of every kind, by real runtimes, through the way of a point."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from search.evaluation import TrialContext, evaluate
from search.evaluation.alone import TrialTools, untimed_reason
from search.evaluation.cache import Cache
from search.experiment.experiment import Experiment
from search.measuring.server import Crashed, MeasurementServer
from search.records import Record
from spaces import Encoding, Placement, Plan
from spaces.quantization.allocation import WIDTHS
from spaces.techniques.quantize.mixed import Mixed
from spaces.techniques.quantize.mixed.kinds import WEIGHT, kinds

MIXED = """
name = "tiny"

[task.python]
file = "task.py"

[space.quantize.mixed]
mean_bits = [32.0, 5.0]

[space.distill.logits]
temperature = [1.0]
steps = [0, 3]

[space.deploy.runtime]
name = ["null", "eager", "onnxruntime", "openvino"]

[objectives.accuracy]

[objectives.latency]
seconds = 0.01
"""


@pytest.fixture
def lane() -> Iterator[MeasurementServer]:
    made = MeasurementServer()
    yield made
    made.close()


def experiment(project: Path, extra: str = "") -> Experiment:
    text = MIXED.replace("mean_bits =", f"{extra}\nmean_bits =")
    (project / "experiment.toml").write_text(text)
    return Experiment.load(project / "experiment.toml")


def allocation(record: Record) -> dict[str, Any]:
    """Return what the bits of a record follow from."""
    assert record.facts.techniques is not None
    return dict(record.facts.techniques["quantize.mixed"])


def bench(given: Experiment, lane: MeasurementServer, folder: Path, trial: int = 0) -> TrialContext:
    return TrialContext(
        experiment=given, folder=folder, trial=trial, server=lane, progress=lambda *news: None
    )


def point(given: Experiment, runtime: str, steps: int = 0) -> dict[str, float | str]:
    own = {"quantize.mixed.mean_bits": 5.0, "distill.logits.steps": steps}
    return given.space.canonical({**given.space.neutral(), **own, "deploy.runtime.name": runtime})  # type: ignore[return-value]


def workbench(given: Experiment, lane: MeasurementServer, folder: Path, asked: Plan) -> TrialTools:
    """Return what a technique may use at a plan."""
    inputs, _ = next(given.task.batches("validation", 1))
    return TrialTools(
        context=bench(given, lane, folder),
        cache=Cache(folder=folder / "cache", identity={}),
        plan=asked,
        task=given.task,
        example=inputs,
        device=torch.device("cpu"),
    )


def widths(plan: Plan) -> dict[int, Encoding]:
    """Return the encoding of a layer alone with each number of bits."""
    asked = dataclasses.replace(plan.encoding, mean_bits=8)
    return {bits: dataclasses.replace(asked, widths=((WEIGHT, bits),)) for bits in WIDTHS}


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_real_runtimes_take_time_for_every_kind_and_width(
    project: Path, lane: MeasurementServer, runtime: str
) -> None:
    given = experiment(project)
    tools = workbench(given, lane, project / "run", given.space.plan(point(given, runtime)))
    uses = kinds(given.task.model(), tools.example)
    assert [len(used) for used in uses.values()] == [1, 1, 1]
    encodings, artifacts = widths(tools.plan), {}
    for number, (kind,) in enumerate(uses.values()):
        folders = {e: project / f"{number}-{bits}" for bits, e in encodings.items()}
        # neither has kernels for a mean of few bits
        assert tools._exported(kind, folders) == list(encodings.values())
        artifacts |= dict.fromkeys(folders.values(), kind)
    found = lane.layers(given, artifacts)
    assert len(found) == 3 * len(WIDTHS)
    assert all(0 < t["low"] <= t["value"] <= t["high"] for t in found.values())


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        ("eager", "eager unpacks weights of any width when it loads them"),
        ("onnxruntime", "onnxruntime unpacks weights of any width when it loads them"),
        ("null", "no layer's time depends on bits in null"),
    ],
)
def test_where_times_cannot_differ_the_record_says_so(
    project: Path, lane: MeasurementServer, runtime: str, reason: str
) -> None:
    given = experiment(project)
    record = evaluate(bench(given, lane, project / "run"), point(given, runtime))
    assert (record.state, record.reason) == ("complete", None)
    assert allocation(record)["by"] == "loss"
    assert allocation(record)["reason"] == reason
    assert set(record.facts.bits) == {"0.weight", "2.weight", "4.weight"}
    assert not (project / "run" / "artifacts" / "0-layers").exists()


def test_the_record_holds_the_times_and_trained_points_keep_the_bits(
    project: Path, lane: MeasurementServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, asked = experiment(project), []
    slow = {8: 5.0, 6: 1.0, 4: 1.0, 3: 1.0, 2: 1.0}

    def layers(_: Experiment, artifacts: dict[Path, object]) -> dict[Path, dict[str, float]]:
        asked.append(len(artifacts))
        taken = {a: slow[WIDTHS[int(a.name.rpartition("-")[2])]] for a in artifacts}
        return {a: {"value": t, "low": t, "high": t} for a, t in taken.items()}

    monkeypatch.setattr(lane, "layers", layers)
    records = [
        evaluate(bench(given, lane, project / "run", trial), point(given, "openvino", steps))
        for trial, steps in enumerate((0, 3))
    ]
    # 6 and 3 bits are unpacked and timed once; the second point has all from the run's cache
    assert asked == [3 * (len(WIDTHS) - 1)]
    for record in records:
        assert (record.state, record.reason) == ("complete", None)
        facts = json.loads(json.dumps(allocation(record)))
        assert facts["by"] == "loss and latency"
        assert facts["predicted_ms"] <= facts["one_width"]["predicted_ms"] == 3
        assert [row["count"] for row in facts["layers"]] == [1, 1, 1]
        assert all(row["ms"]["8"] == [5, 5, 5] for row in facts["layers"])
        assert 8 not in record.facts.bits.values()
    assert records[0].facts.bits == records[1].facts.bits
    assert records[1].facts.recovery
    untimed = experiment(project, "latency = false")
    record = evaluate(bench(untimed, lane, project / "other"), point(untimed, "openvino"))
    assert allocation(record) == {
        "by": "loss",
        "reason": "quantize.mixed.latency is false",
    }
    assert 8 in record.facts.bits.values()


def test_openvino_is_timed_for_every_kind_and_width(project: Path, lane: MeasurementServer) -> None:
    given = experiment(project)
    record = evaluate(bench(given, lane, project / "run"), point(given, "openvino"))
    rows = allocation(record)["layers"]
    assert sorted(row["kind"] for row in rows) == [
        "Linear 32 to 3 of [1, 32]",
        "Linear 32 to 32 of [1, 32]",
        "Linear 6 to 32 of [1, 6]",
    ]
    for row in rows:
        assert set(row["ms"]) == {str(bits) for bits in WIDTHS}
        assert all(0 < low <= value <= high for value, low, high in row["ms"].values())


def test_layers_that_cannot_be_timed_leave_the_loss(
    project: Path, lane: MeasurementServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def layers(*_: object) -> None:
        raise Crashed("the measuring server ended unexpectedly")

    monkeypatch.setattr(lane, "layers", layers)
    given = experiment(project)
    plan = given.space.plan(point(given, "openvino"))
    tools = workbench(given, lane, project / "run", plan)
    prepared = Mixed(mean_bits=5).prepare(given.task.model(), plan, tools)
    reason = str(prepared.facts["reason"])
    assert reason.endswith("could not be timed: the measuring server ended unexpectedly")
    assert len(prepared.plan.encoding.widths) == 3
    assert not (project / "run" / "artifacts" / "0-layers").exists()


@pytest.mark.parametrize(
    ("device", "count", "reason"),
    [
        ("cuda", 1, "layers are timed alone on CPUs only, the target is cuda"),
        ("cpu", 2, "layers are not timed alone where several devices share them"),
        ("cpu", 1, None),
    ],
)
def test_layers_are_timed_where_one_alone_tells_something(
    project: Path, device: str, count: int, reason: str | None
) -> None:
    given = experiment(project)
    target = dataclasses.replace(given.target, device=device)
    given = dataclasses.replace(given, target=target)
    plan = given.space.plan(point(given, "openvino"))
    plan = dataclasses.replace(plan, placement=Placement(count=count))
    assert untimed_reason(bench(given, None, project), plan) == reason  # type: ignore[arg-type]
