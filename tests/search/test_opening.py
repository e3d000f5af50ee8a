"""What is tried first, also where there is little to spend."""

from pathlib import Path

import pytest
from _answers import measured

from search.experiment.experiment import Experiment
from search.records.record import Record
from search.study.opening import baselines, opening
from search.study.study import Study

RUNTIMES = ("eager", "onnxruntime", "openvino", "null")
NAMES = ", ".join(f'"{name}"' for name in RUNTIMES)


@pytest.fixture
def experiment(project: Path) -> Experiment:
    file = project / "experiment.toml"
    file.write_text(file.read_text().replace('name = ["null"]', f"name = [{NAMES}]"))
    return Experiment.load(file)


def runtimes(points: list[dict[str, bool | int | float | str]]) -> list[object]:
    return [point["deploy.runtime.name"] for point in points]


def test_after_the_baselines_the_fastest_runtime_is_tried_first(experiment: Experiment) -> None:
    times = {"eager": 3.1, "openvino": 1.0, "onnxruntime": 2.0}  # of null none is known
    points = opening(experiment, times)
    assert runtimes(points[:4]) == list(RUNTIMES)
    assert runtimes(points[4:7]) == ["openvino", "onnxruntime", "null"]  # eager is out of reach
    assert all(point["quantize.integer.weight_bits"] == 8 for point in points[4:7])
    assert set(runtimes(points[7:])) == {"openvino"}
    assert opening(experiment, times) == points
    assert {str(p) for p in opening(experiment)} >= {str(p) for p in points[:7]}


def test_however_few_trials_there_are_each_runtime_within_reach_is_tried_with_integers(
    project: Path, experiment: Experiment
) -> None:
    run = project / "run"
    run.mkdir()
    study = Study.open(run, experiment, lambda point: None)
    speed = {"eager": 2.9, "onnxruntime": 1.0, "openvino": 2.0, "null": 2.5}
    asked_points = []
    for _ in range(8):
        asked = study.ask()
        assert asked is not None
        runtime = str(asked.point["deploy.runtime.name"])
        values = {
            "accuracy": measured(0.9, "score"),
            "latency": measured(speed[runtime], "ms"),
            "size": measured(1000.0, "bytes"),
        }
        record = Record(
            trial=asked.trial,
            point=asked.point,
            runtime=runtime,
            state="complete",
            measurements=values,
        )
        study.tell(asked, record)
        asked_points.append(asked.point)
    assert asked_points[:4] == baselines(experiment)
    assert runtimes(asked_points[4:]) == ["onnxruntime", "openvino", "null", "eager"]


def test_encodings_that_go_together_are_tried_together(experiment: Experiment) -> None:
    content = experiment.to_json()
    content["space"] |= {
        "quantize.mixed": {"mean_bits": [32, 4]},
        "precision.compute": {"dtype": ["float32", "bfloat16"]},
    }
    wider = Experiment.of(content, experiment.folder)
    tried = [wider.space.plan(point).encoding for point in opening(wider)]
    assert any((e.weight_bits, e.activation_bits, e.dtype) == (8, 8, "bfloat16") for e in tried)
    assert not any(e.clash for e in tried)
