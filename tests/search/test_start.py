"""A search that starts from another run's front tries its points, as far as it has them."""

import dataclasses
import json
from pathlib import Path

import _answers
import pytest

from search.api import front_of
from search.errors import BadRun
from search.experiment import Experiment
from search.records import Record
from search.study import Start, Study, baselines, opening
from spaces import Point

BASE: Point = {
    "prune.channels.ratio": 0.0,
    "quantize.mixed.mean_bits": 32.0,
    "quantize.integer.weight_bits": 32,
    "quantize.integer.activation_bits": 32,
    "deploy.runtime.name": "eager",
}


def member(**changed: float | str) -> Record:
    names = {name.rpartition(".")[2]: name for name in BASE}
    point = BASE | {names[key]: value for key, value in changed.items()}
    return Record(trial=0, point=point, runtime=str(point["deploy.runtime.name"]), state="complete")


def started(project: Path, *members: Record) -> tuple[Experiment, Start]:
    experiment = Experiment.load(project / "experiment.toml")
    return experiment, Start.of(experiment, "/runs/gpu", member(), members)


def test_members_become_points_of_the_space_and_what_it_lacks_is_told(project: Path) -> None:
    _, start = started(
        project,
        member(),
        member(name="null", ratio=0.5, weight_bits=8),
        member(name="tensorrt", ratio=0.6),
        member(name="null", ratio=0.5, weight_bits=8, mean_bits=4.0),
    )
    assert [point.get("prune.channels.ratio") for point in start.points] == [0.0, 0.5, 0.5]
    assert start.points[1]["deploy.runtime.name"] == "null"
    assert "deploy.runtime.name" not in start.points[2]
    assert start.told == (
        "starts from 3 points of /runs/gpu; not in this space: "
        "prune.channels.ratio = 0.6 (now 0.5), deploy.runtime.name = tensorrt (now the fastest), "
        "quantize.mixed.mean_bits = 4.0"
    )
    assert Start.from_json(json.loads(json.dumps(start.to_json()))) == start


def test_the_points_come_right_after_the_baselines_in_the_fastest_runtime(project: Path) -> None:
    text = (project / "experiment.toml").read_text()
    text = text.replace('name = ["null"]', 'name = ["eager", "null", "openvino"]')
    (project / "experiment.toml").write_text(text)
    experiment, start = started(project, member(name="tensorrt", ratio=0.5, weight_bits=8))
    times = {"eager": 3.0, "null": 2.0, "openvino": 1.0}
    points = opening(experiment, times, start.points)
    first = points[len(baselines(experiment))]
    assert first == experiment.space.neutral() | {
        "deploy.runtime.name": "openvino",
        "prune.channels.ratio": 0.5,
        "quantize.integer.weight_bits": 8,
    }
    assert [p for p in points if p != first] == [
        p for p in opening(experiment, times) if p != first
    ]


def test_a_resumed_search_goes_on_with_the_same_points(project: Path) -> None:
    experiment, start = started(
        project, *(member(name="null", ratio=r, weight_bits=8) for r in (0.25, 0.5))
    )
    asked: list[list[Point]] = []
    for name, restarts in (("whole", False), ("resumed", True)):
        folder = project / name
        folder.mkdir()
        budget = dataclasses.replace(experiment, trials=30)

        def opened(folder: Path = folder, budget: Experiment = budget) -> Study:
            return Study.open(folder, budget, lambda point: None, given=start.points)

        study, points = opened(), []
        for _ in range(5):
            pending = study.ask()
            assert pending is not None
            study.tell(pending, _answers.answer(pending))
            points.append(pending.point)
            study = opened() if restarts else study
        asked.append(points)
    assert asked[0] == asked[1]
    assert [p["prune.channels.ratio"] for p in asked[0]][2:4] == [0.25, 0.5]


def test_what_is_no_ended_run_is_refused(project: Path) -> None:
    with pytest.raises(BadRun, match="is not a run folder"):
        front_of(project / "nothing")
