"""The local executor: a crash, a hang or a lack of memory costs one trial and leaves nothing."""

import dataclasses
import json
import sys
import time
import types
from pathlib import Path

import psutil
import pytest

from search.executors.local import Local
from search.experiment.experiment import Experiment
from search.study.study import PendingTrial


def evaluated(
    project: Path, model_code: str = "", limit: float = 60.0
) -> tuple[Local, PendingTrial]:
    """Return an executor for the tiny experiment whose model() first runs `model_code`."""
    task = project / "task.py"
    task.write_text(task.read_text().replace("    torch.manual_seed(0)\n", f"    {model_code}\n"))
    experiment = Experiment.load(project / "experiment.toml")
    experiment = dataclasses.replace(experiment, trial_time=limit)
    point = experiment.space.neutral() | {"deploy.runtime.name": "null"}
    run = project / "run"
    run.mkdir()
    executor = Local(experiment=experiment, folder=run, cores=1)
    return executor, PendingTrial(trial=0, point=point, forced=True)


def silent(stage: str, done: int, of: int, detail: str) -> None:
    del stage, done, of, detail


def test_a_trial_is_measured_on_its_artifact(project: Path) -> None:
    executor, asked = evaluated(project, "torch.manual_seed(0)")
    record = executor.evaluate(asked, None, silent)
    assert (record.state, record.reason) == ("complete", None)
    assert list(record.measurements) == ["accuracy", "latency", "size"]
    artifact = project / "run" / "artifacts" / "0"
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert record.measurements["size"].value == sum(f["bytes"] for f in manifest["files"].values())
    assert record.facts.size == record.measurements["size"].value
    assert manifest["measurements"]["accuracy"] == record.measurements["accuracy"].to_json()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no weights here')", "ValueError: no weights here"),
        ("import os; os.kill(os.getpid(), 11)", "was killed by signal 11"),
        ("import os; os.kill(os.getpid(), 9)", "most likely because memory ran out"),
        ("import os; os._exit(7)", "exit code 7 and no result"),
    ],
)
def test_a_crash_is_a_failed_trial_with_a_reason(project: Path, code: str, reason: str) -> None:
    executor, asked = evaluated(project, code)
    record = executor.evaluate(asked, None, silent)
    assert record.state == "failed"
    assert reason in str(record.reason)
    assert not (project / "run" / "artifacts" / "0").exists()


def test_a_trial_does_not_run_the_program_that_started_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ray worker's imports all of Ray, for each trial; another's may have no guard."""
    program, marker = project / "program.py", project / "ran"
    program.write_text(f"open({str(marker)!r}, 'w').close()")
    main = types.ModuleType("__main__")
    main.__file__ = str(program)
    executor, asked = evaluated(project, "torch.manual_seed(0)")
    monkeypatch.setitem(sys.modules, "__main__", main)
    record = executor.evaluate(asked, None, silent)
    assert (record.state, record.reason) == ("complete", None)
    assert not marker.exists()
    assert sys.modules["__main__"] is main


def test_a_hang_is_killed_with_its_children(project: Path) -> None:
    marker = project / "child"
    code = (
        "import subprocess, time; "
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True); "
        f"open({str(marker)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    executor, asked = evaluated(project, code, limit=12.0)
    record = executor.evaluate(asked, None, silent)
    assert record.state == "failed"
    assert "longer than its limit of 12 s" in str(record.reason)
    for _ in range(50):
        if not psutil.pid_exists(int(marker.read_text())):
            break
        time.sleep(0.1)
    assert not psutil.pid_exists(int(marker.read_text()))


def test_the_same_seed_builds_the_same_weights(project: Path) -> None:
    executor, asked = evaluated(project, "torch.manual_seed(0)")
    point = asked.point | {"prune.channels.ratio": 0.5, "distill.logits.steps": 3}
    weights = []
    for name in ("a", "b"):
        folder = project / name
        folder.mkdir()
        again = dataclasses.replace(executor, folder=folder)
        record = again.evaluate(dataclasses.replace(asked, point=point), None, silent)
        assert record.state == "complete"
        assert record.facts.weights_removed > 0.3
        manifest = json.loads((folder / "artifacts" / "0" / "manifest.json").read_text())
        weights.append({k: v["sha256"] for k, v in manifest["files"].items()})
    assert weights[0] == weights[1]
