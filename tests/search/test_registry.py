"""Picks of a front in MLflow's model registry, and the pages and servers that read them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _examples import record, study, summary
from mlflow import MlflowClient, pyfunc

from objectives import Export, Target
from objectives.artifacts import described, write
from objectives.runtimes.eager import Eager
from objectives.runtimes.onnxruntime import Onnxruntime
from objectives.tasks.digits import Digits
from objectives.tasks.python import Python
from search.errors import BadArtifact, BadRun
from search.records import Facts
from search.result import Member
from search.tracking import addresses, registry, views
from search.tracking.mlflow_store import MlflowTracker
from spaces import Encoding, Task

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow"),
]
MINE = """
import torch

def model():
    return torch.nn.Linear(4, 2)

def batches(split, batch_size):
    yield torch.zeros(batch_size, 4), torch.zeros(batch_size, dtype=torch.int64)
"""


def artifact(folder: Path, task: Task, name: str, runtime: Any, settings: dict[str, str]) -> None:
    """Write a task's unchanged model as an artifact, as a trial does."""
    model, target = task.model().eval(), Target(batch_size=2)
    example, _ = next(iter(task.batches("train", 2)))
    signature, operations = described(model, example, target)
    kind = type(task).__name__.lower()
    export = Export(
        model=model,
        reference=task.model(),
        example=example,
        signature=signature,
        encoding=Encoding(),
        calibration=[],
        target=target,
        folder=folder,
        operations=operations,
    )
    folder.parent.mkdir(parents=True)
    write(folder, name, runtime, export, {"task": {"name": kind, "settings": settings}})


def member(run: Path, trial: int) -> Member:
    facts = Facts(identity="a" * 16)
    found = record(trial, 0.9, 1.0, 5.0, artifact=f"artifacts/{trial}", facts=facts)
    return Member(record=found, folder=run)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the digits' network in ONNX Runtime as the artifact of trial 3."""
    folder = tmp_path_factory.mktemp("run")
    artifact(folder / "artifacts" / "3", Digits(), "onnxruntime", Onnxruntime(), {})
    return folder


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the addresses of a tracked study in a store of these tests."""
    tracker = MlflowTracker(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")
    assert tracker.sync(summary(study()[:4]))
    location = tracker.location()
    assert location is not None
    return {"store": tracker.store, "experiment": location[0], "run": location[1]}


def test_picks_are_versions_under_their_words_and_compute_what_the_artifact_does(
    run: Path, tracking: dict[str, str]
) -> None:
    picks = {"knee": member(run, 3), "fastest": member(run, 3)}
    (version,) = registry.register(picks, "digits", tracking)
    assert (version.trial, version.aliases) == (3, ("knee", "fastest"))
    assert registry.register(picks, "digits", tracking) == (version,)  # once, however often
    client = MlflowClient(tracking["store"], tracking["store"])
    assert str(client.get_model_version_by_alias("digits", "knee").version) == version.number
    (stored,) = client.search_model_versions("name = 'digits'")
    trial = client.get_run(stored.run_id)
    assert trial.data.tags["trial"] == "3"
    model = pyfunc.load_model(_local(client, stored))
    inputs, _ = next(iter(Digits().batches("validation", 5)))
    with torch.inference_mode():
        expected = Digits().model()(inputs)
    found = torch.as_tensor(model.predict(inputs.numpy()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def _local(client: MlflowClient, stored: Any) -> str:
    """Return the folder of a version's files."""
    model = client.get_logged_model(stored.source.rpartition("/")[2])
    return str(model.artifact_location).removeprefix("file://")


def test_what_the_users_code_rebuilds_is_refused_with_the_reason(
    tmp_path: Path, tracking: dict[str, str]
) -> None:
    file = tmp_path / "task.py"
    file.write_text(MINE)
    run = tmp_path / "run"
    artifact(run / "artifacts" / "1", Python(file=file), "eager", Eager(), {"file": str(file)})
    with pytest.raises(BadArtifact, match="pick a member in another runtime"):
        registry.register({"knee": member(run, 1)}, "mine", tracking)
    assert not MlflowClient(tracking["store"], tracking["store"]).search_model_versions(
        "name = 'mine'"
    )


def test_a_run_that_was_not_tracked_says_so(run: Path) -> None:
    with pytest.raises(BadRun, match="in no MLflow store"):
        registry.register({"knee": member(run, 3)}, "digits", {})


def test_the_page_of_a_study_is_its_saved_view(tracking: dict[str, str]) -> None:
    page = addresses.ui_page("http://h", tracking["experiment"], tracking["run"])
    key = page.rpartition("viewStateShareKey=")[2]
    tags = MlflowClient(tracking["store"]).get_experiment(tracking["experiment"]).tags
    view = json.loads(tags[views.TAG + key])
    assert view["orderByKey"] == "tags.`front`"
    assert view["orderByAsc"] is False
    runs = MlflowClient(tracking["store"]).search_runs(
        [tracking["experiment"]], view["searchFilter"], order_by=[f"{view['orderByKey']} DESC"]
    )
    assert [r.data.tags["front"] for r in runs] == sorted(
        (r.data.tags["front"] for r in runs), reverse=True
    )
    shown = {column.partition(".")[2].strip("`") for column in view["selectedColumns"]}
    assert {"accuracy_score", "latency_ms", "speedup", "runtime", "point"} <= shown
    logged = {*runs[0].data.metrics, *runs[0].data.tags, "picks", "size_MB"}
    assert shown <= logged
    scatter, parallel = view["compareRunCharts"]
    assert {scatter["xaxis"]["key"], scatter["yaxis"]["key"]} <= set(runs[0].data.metrics)
    assert set(parallel["selectedParams"]) <= set(runs[0].data.params)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def server(run: Path, tracking: dict[str, str], port: int, tmp_path: Path) -> Iterator[str]:
    """Serve the pick "knee" as MLflow does, from another folder."""
    registry.register({"knee": member(run, 3)}, "served", tracking)
    command = ["mlflow", "models", "serve", "-m", "models:/served@knee", "--env-manager", "local"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking["store"]}
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--port", str(port)], env=environment, cwd=tmp_path
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/ping", timeout=2).close()
            break
        except OSError:
            assert process.poll() is None
            time.sleep(1)
    yield address
    process.terminate()
    process.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mlflow") is None, reason="the command mlflow is not on the path")
def test_mlflow_serves_a_pick_and_answers_requests(server: str) -> None:
    inputs, _ = next(iter(Digits().batches("validation", 3)))
    body = json.dumps({"inputs": inputs.tolist()}).encode()
    request = urllib.request.Request(
        f"{server}/invocations", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = torch.tensor(json.load(answer)["predictions"])
    with torch.inference_mode():
        expected = Digits().model()(inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
