"""The calls that `import search` offers."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from _task import Points

import search
from objectives import Target
from search.errors import BadEnvironment, BadExperiment, BadRun, SearchError, UnknownName
from search.experiment.experiment import NamedEntry
from spaces import Choice, Interval, Task

SPACE = {
    "prune.channels": {"ratio": [0.0, 0.5]},
    "quantize.integer": {"weight_bits": [32, 8], "activation_bits": [32, 8]},
    "deploy.runtime": {"name": ["null"]},
}
OBJECTIVES = {"accuracy": {"within": "50%"}, "latency": {"seconds": 0.01}, "size": {}}


def experiment(folder: Path) -> search.Experiment:
    """Return an experiment that is built in code."""
    return search.Experiment(
        task=Points(width=24),
        target=Target(threads=1),
        space=SPACE,
        objectives=OBJECTIVES,
        trials=4,
        folder=folder,
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> search.Result:
    """The result of a search for an experiment that is built in code."""
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        return search.run(experiment(folder), out=folder / "run", quiet=True)


def test_a_search_from_python_leaves_the_same_run_folder(result: search.Result) -> None:
    assert result.confirmed
    assert result.baseline.trial == 0
    assert sum(r.state != "infeasible" for r in result.records) == 4
    content = json.loads((result.folder / "front.json").read_text())
    assert [r["trial"] for r in content["front"]] == [r.trial for r in result.front]
    assert content == {k: v for k, v in result.to_json().items() if k != "run"}
    assert (result.folder / "experiment.toml").is_file()
    assert "times" in str(result) or "smaller" in str(result)


def test_a_run_is_opened_and_continued(
    result: search.Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    again = search.open(result.folder)
    assert again.front == result.front
    assert again.records == result.records
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    before = [r.point for r in result.records]
    more = search.resume(result.folder, trials=5, quiet=True)
    assert [r.point for r in more.records][: len(before)] == before
    assert sum(r.state != "infeasible" for r in more.records) == 5


def test_records_are_a_data_frame_with_units(result: search.Result) -> None:
    frame = result.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == len(result.records)
    assert {"accuracy_score", "latency_ms", "size_bytes", "prune.channels.ratio"} <= set(frame)
    assert frame.loc[0, "latency_ms"] == result.baseline.measurements["latency"].value


def test_a_member_is_picked_and_exported(result: search.Result, tmp_path: Path) -> None:
    member = search.open(result.folder).pick("smallest")
    to = member.export(tmp_path / "model")
    assert (to / "manifest.json").is_file()
    measured = search.measure(to).measurements
    assert measured["accuracy"].value == member.record.measurements["accuracy"].value
    with pytest.raises(BadRun, match="exists and is not empty"):
        member.export(to)
    with pytest.raises(BadRun, match="exists and is not a folder"):
        member.export(to / "manifest.json")
    with pytest.raises(BadEnvironment, match="cannot be written"):
        member.export(to / "manifest.json" / "model")
    with pytest.raises(UnknownName, match="Did you mean 'smallest'"):
        result.pick("smalest")


def test_a_notebook_shows_the_report(result: search.Result) -> None:
    shown = result._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "How far to trust this" in shown
    assert "<script" not in shown  # all of the page is escaped into the attribute


def test_an_experiment_is_the_same_in_code_in_json_and_in_toml(tmp_path: Path) -> None:
    built = experiment(tmp_path)
    again = search.Experiment.of(json.loads(json.dumps(built.to_json())), tmp_path)
    assert again == built
    assert again.key == built.key
    written = """
    trials = 4
    task."_task:Points" = { width = 24 }
    target = { threads = 1 }
    space.prune.channels.ratio = [0.0, 0.5]
    space.quantize.integer = { weight_bits = [32, 8], activation_bits = [32, 8] }
    space.deploy.runtime.name = ["null"]
    objectives.accuracy.within = "50%"
    objectives.latency.seconds = 0.01
    objectives.size = {}
    """
    toml = search.Experiment.parse(written, tmp_path)
    assert toml == built
    assert toml.key == built.key


def test_ranges_limits_and_entries_survive_the_way_to_another_process(tmp_path: Path) -> None:
    built = search.Experiment(
        task=Points(),
        space={
            "prune.channels": {"ratio": {"low": 0.0, "high": 0.7, "step": 0.1}, "round_to": 4},
            "distill.logits": {"temperature": {"low": 1.0, "high": 8.0, "log": True}},
            "deploy.runtime": {},
        },
        objectives={"accuracy": {"at_least": 0.5}, "latency": {"at_most": 3.0}},
        time="20m",
        sampler={"tpe": {"startup_trials": 9}},
        executor=NamedEntry("ray", {"workers": 2}),
        folder=tmp_path,
    )
    again = search.Experiment.of(json.loads(json.dumps(built.to_json())), tmp_path)
    assert again == built
    assert again.time == 1200
    dimensions = again.space.dimensions()
    assert dimensions["prune.channels.ratio"] == Interval(0.0, 0.7, 0.1)
    assert dimensions["distill.logits.temperature"] == Interval(1.0, 8.0, log=True)
    assert isinstance(dimensions["deploy.runtime.name"], Choice)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"prune.chanels": {}}}, "Did you mean 'prune.channels'"),
        ({"space": {"prune.channels": {"ratio": "much"}}}, "its values are numbers, got 'much'"),
        ({"objectives": {"latnecy": {}}}, "Did you mean 'latency'"),
        ({"objectives": {}}, "the experiment has no objectives"),
        ({"sampler": 3}, "sampler must be a name or one table"),
        ({"trials": 0}, "trials must be an integer from 1"),
        ({"target": {"device": "gpu"}}, 'target.device must be "cpu" or "cuda", got \'gpu\''),
    ],
)
def test_a_mistake_in_code_is_one_line(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    parts: dict[str, object] = {"task": Points(), "space": SPACE, "objectives": OBJECTIVES}
    with pytest.raises(SearchError) as caught:
        search.Experiment(**parts | changes, folder=tmp_path)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_that_processes_cannot_import_is_refused_before_anything_is_run(
    tmp_path: Path,
) -> None:
    class Inner(Points):
        pass

    given = dataclasses.replace(experiment(tmp_path), task=Inner())
    with pytest.raises(BadExperiment, match="must be defined at the top of a module"):
        search.run(given, out=tmp_path / "run", quiet=True)


def test_checking_and_opening_say_what_is_wrong(project: Path) -> None:
    assert search.check(project / "experiment.toml")[-1] == "ok"
    with pytest.raises(BadRun, match="is not a run folder"):
        search.open(project)
    with pytest.raises(BadExperiment, match="one of them"):
        search.run(project / "experiment.toml", task=project / "task.py")


def test_importing_the_package_imports_none_of_its_libraries() -> None:
    code = "import sys, search; print([n for n in ('torch', 'optuna', 'ray') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert {"Experiment", "check", "measure", "open", "resume", "run"} <= set(search.__all__)
    for name in search.__all__:
        assert getattr(search, name)


def test_a_task_is_any_class_that_extends_task() -> None:
    assert issubclass(Points, Task)
