"""The tracking store holds exactly the study, however often and whenever it is written."""

import dataclasses
import json
import shutil
import socket
import sys

import pytest
from _examples import AXES, SPACE, record, study, summary
from mlflow import MlflowClient

from search.errors import BadEnvironment
from search.records import Facts, front
from search.tracking import addresses, runs
from search.tracking.addresses import EXPERIMENT
from search.tracking.mlflow_store import MlflowTracker
from spaces import Choice

pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")
FEW = study()[:9]


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """Make a migrated empty database once: MLflow takes seconds for it."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def address(empty, tmp_path):
    shutil.copy(empty, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def folder(tmp_path):
    """Return a run folder as the driver leaves it."""
    run = tmp_path / "run"
    for member in summary(FEW).front:
        (run / member.artifact).mkdir(parents=True)
        (run / member.artifact / "manifest.json").write_text("{}")
    for name in ("report.html", "pareto.png", "front.csv", "front.json"):
        (run / name).write_text(name)
    return run


def contents(address, words="", history=("hypervolume", "latency_ms")):
    """Return name -> (status, params, tags, metric histories) of all runs in the store."""
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], words, max_results=1000)
    return {
        run.info.run_name: (
            run.info.status,
            run.data.params,
            run.data.tags,
            {
                key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
                for key in history
                if key in run.data.metrics
            },
            run.info.run_id,
            run.data.metrics,
        )
        for run in runs
    }


def test_writing_again_changes_nothing(address, folder):
    told = summary(FEW)
    assert MlflowTracker(address).finish(told, folder)
    once = contents(address)
    assert MlflowTracker(address).finish(told, folder)
    assert contents(address) == once
    assert len(once) == 1 + len(told.records)
    status, _, tags, _, parent, _ = once["cifar10-resnet20"]
    assert (status, tags["role"]) == ("FINISHED", "study")
    assert once["cifar10-resnet20"][5]["front_size"] == len(told.front)
    children = [run for name, run in once.items() if name != "cifar10-resnet20"]
    assert {run[2]["mlflow.parentRunId"] for run in children} == {parent}
    found = contents(address, "tags.front = 'true'")
    assert {run[2]["trial"] for run in found.values()} == {str(r.trial) for r in told.front}
    client = MlflowClient(address)
    assert {f.path for f in client.list_artifacts(parent)} == {
        "front.csv", "front.json", "pareto.png", "report.html",
    }  # fmt: skip
    with_files = {run[2]["trial"] for run in children if client.list_artifacts(run[4], "artifact")}
    assert with_files == {str(r.trial) for r in told.front}


def test_trial_by_trial_is_the_same_as_at_once(address):
    records = study()[:6]
    tracker = MlflowTracker(address)
    for count in range(1, 7):
        part = records[:count]
        assert tracker.sync(summary(part, front=tuple(front(part, AXES))))
    runs = contents(address)
    curve = runs["cifar10-resnet20"][3]["hypervolume"]
    assert [step for step, _ in sorted(curve)] == list(range(6))
    assert [v for _, v in sorted(curve)] == sorted(v for _, v in curve)
    members = {str(r.trial) for r in front(records, AXES)}
    assert {
        run[2].get("trial") for run in runs.values() if run[2].get("front") == "true"
    } == members


def test_resume_in_a_new_process_continues_the_same_runs(address):
    records = study()[:4]
    assert MlflowTracker(address).sync(summary(records[:2], front=()))
    assert MlflowTracker(address).sync(summary(records, front=()))
    runs = contents(address)
    assert len(runs) == 5
    assert [s for s, _ in sorted(runs["cifar10-resnet20"][3]["hypervolume"])] == [0, 1, 2, 3]


def searched(*names):
    """Return the space of the examples, all dimensions but these at one value."""
    slots = []
    for slot in SPACE.slots:
        ranges = {
            field: dimension
            if f"{slot.name}.{field}" in names
            else Choice((getattr(slot.base, field),))
            for field, dimension in slot.ranges.items()
        }
        slots.append(dataclasses.replace(slot, ranges=ranges))
    return dataclasses.replace(SPACE, slots=tuple(slots))


def test_names_statuses_params_and_metrics(address):
    records = (*study()[:2], *study()[36:])
    told = summary(records, space=searched("prune.channels.ratio", "deploy.runtime.name"))
    assert MlflowTracker(address).sync(told)
    runs = contents(address)
    assert runs["t000 · baseline"][0] == "FINISHED"
    assert runs["t036 · prune 0.1"][0] == "KILLED"
    assert runs["t038 · unchanged"][0] == "FAILED"
    assert runs["t038 · unchanged"][2]["reason"].endswith("out of memory")
    name = "t039 · prune 0.3 · 8/8 bit · T4 200 steps · bfloat16"
    _, params, tags, _, _, metrics = runs[name]
    assert params == {"prune.channels.ratio": "0.3", "deploy.runtime.name": "openvino"}
    assert (tags["runtime"], tags["state"]) == ("openvino", "complete")
    base, member = records[0].measurements, told.records[-1].measurements
    assert metrics["latency_ms"] == member["latency"].value
    assert metrics["speedup"] == pytest.approx(base["latency"].value / member["latency"].value)
    assert metrics["size_ratio"] == pytest.approx(member["size"].value / base["size"].value)
    assert metrics["interval/latency_ms_low"] == member["latency"].low
    assert metrics["facts/seconds.train"] == 6.0
    assert runs["cifar10-resnet20"][1]["precision.compute.dtype"] == "float32"


def test_curves_among_the_facts_are_written_once(address):
    curve = [3.0, 2.0, 1.5]
    records = (record(0, 0.9, 2.0, 10, facts=Facts(loss=curve)),)
    for _ in range(2):
        assert MlflowTracker(address).sync(summary(records))
    found = contents(address, history=("facts/loss",))["t000 · baseline"][3]
    assert sorted(found["facts/loss"]) == list(enumerate(curve))


def test_the_data_and_the_command_are_those_of_the_run(address, folder):
    samples = {"train": "ab", "validation": "cd", "test": "ef"}
    (folder / "environment.json").write_text(json.dumps({"made_from": {"samples": samples}}))
    (folder / "experiment.toml").write_text("")
    told = summary(FEW)
    for _ in range(2):
        assert MlflowTracker(address).finish(told, folder)
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    (run,) = client.search_runs([experiment], "tags.role = 'study'")
    found = {i.tags[0].value: i.dataset.digest for i in run.inputs.dataset_inputs}
    assert found == samples
    assert len(run.inputs.dataset_inputs) == 3
    assert run.data.tags["mlflow.source.name"] == told.command


def _closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_outage_warns_once_and_never_raises(folder, capsys):
    said: list[str] = []
    tracker = MlflowTracker(f"http://me:sesame@127.0.0.1:{_closed_port()}", said.append)
    told = summary(study()[:2])
    assert not tracker.sync(told)
    assert not tracker.sync(told)
    assert not tracker.finish(told, folder)
    assert len(said) == 1
    assert "\n" not in said[0]
    assert "the search goes on" in said[0]
    out, err = capsys.readouterr()
    assert "sesame" not in said[0] + out + err + tracker.address
    assert not out


def test_a_broken_database_is_an_outage(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    said: list[str] = []
    assert not MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}", said.append).sync(summary())
    assert len(said) == 1


def test_after_an_outage_everything_is_written(address, monkeypatch):
    said: list[str] = []
    tracker = MlflowTracker(address, said.append)
    records = study()[:3]

    def refuse(*_args, **_kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", refuse)
        assert not tracker.sync(summary(records))
    assert not tracker.sync(summary(records))  # It pauses before it asks again.
    monkeypatch.setattr("search.tracking.mlflow_store.PAUSE", 0.0)
    tracker._retry_at = 0.0
    assert tracker.sync(summary(records))
    runs = contents(address)
    assert len(runs) == 4
    assert all(len(run[3].get("latency_ms", [0])) == 1 for run in runs.values())
    assert len(said) == 1


def test_default_store_is_here_unless_the_environment_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert addresses.default_store() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert (
        addresses.artifact_location(addresses.default_store())
        == (tmp_path / "mlartifacts").as_uri()
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    assert addresses.default_store() == "http://host"


def test_page_is_served_to_this_machine_only():
    command = addresses.ui_command("sqlite:////tmp/a.db", 5001)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--workers") + 1] == "1"
    with pytest.raises(BadEnvironment, match=r"http://\*\*\*@host is a server already"):
        addresses.ui_command("http://me:pw@host")


def test_redaction():
    text = "cannot reach postgresql://u:p@db/x and https://token@host/y but http://plain/z"
    assert addresses.redact(text) == (
        "cannot reach postgresql://***@db/x and https://***@host/y but http://plain/z"
    )


def test_note_tells_the_picks_and_escapes():
    told = summary(command="python -m search run https://u:p@host/e.toml", goal="a | b <img>")
    text = runs.note(told)
    for word in ("**baseline**", "**knee**", "**fastest**", "**most accurate**", "export"):
        assert word in text
    assert "u:p" not in text
    assert r"a \| b \<img\>" in text
    long = dataclasses.replace(told, goal="x" * 20_000)
    assert len(runs.note(long)) == runs.NOTE_LENGTH


def test_metric_names_are_allowed_everywhere():
    assert runs.name("throughput_samples/s") == "throughput_samples_per_second"
    assert runs.name("cost_€ (1M)") == "cost__ _1M_"
