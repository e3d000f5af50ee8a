"""The command line as a user meets it: in processes of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.cli.parser import main

ROOT = Path(__file__).parents[2]


def search(*arguments: str, folder: Path, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "search", *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "PYTHONWARNINGS": "default",
    }


def states(run: Path) -> list[tuple[int, str]]:
    """Return the trials of a run by number, with their states."""
    lines = (run / "records.jsonl").read_text().splitlines()
    return [(r["trial"], r["state"]) for r in map(json.loads, lines)]


@pytest.mark.slow
def test_a_run_without_a_name_goes_on_where_it_stopped(project: Path) -> None:
    text = (project / "experiment.toml").read_text()
    (project / "mine.toml").write_text(text.replace('name = "tiny"', ""))
    done = search("run", "mine.toml", "--trials", "3", folder=project)
    assert done.returncode == 0, done.stderr
    run = project / "runs" / "mine"
    before, key = states(run), json.loads((run / "tracking.json").read_text())
    done = search("resume", "runs/mine", "--trials", "4", folder=project)
    assert done.returncode == 0, done.stderr
    assert "continuing after 3 trials" in done.stderr
    assert "mine: " in done.stderr
    assert states(run)[: len(before)] == before
    assert sum(state != "infeasible" for _, state in states(run)) == 4
    assert json.loads((run / "tracking.json").read_text()) == key  # the same page of MLflow's


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny experiment, in the folder of its project."""
    import conftest

    project = tmp_path_factory.mktemp("project")
    (project / "task.py").write_text(conftest.TASK)
    (project / "experiment.toml").write_text(
        conftest.EXPERIMENT.replace("trials = 8", "trials = 4")
    )
    done = search("run", "experiment.toml", "--json", folder=project)
    assert done.returncode == 0, done.stderr
    (project / "stdout.json").write_text(done.stdout)
    (project / "stderr.txt").write_text(done.stderr)
    return project


def test_a_run_leaves_what_the_contract_lists(run: Path) -> None:
    folder = run / "runs" / "tiny"
    for name in (
        "experiment.toml",
        "environment.json",
        "study.db",
        "records.jsonl",
        "front.json",
        "front.csv",
        "report.html",
        "pareto.png",
    ):
        assert (folder / name).stat().st_size > 0, name
    front = json.loads((folder / "front.json").read_text())
    assert front["baseline"]["trial"] == 0
    assert front["baseline"]["point"]["prune.channels.ratio"] == 0.0
    for record in front["front"]:
        assert record["state"] == "complete"
        assert set(record["measurements"]) == {"accuracy", "latency", "size"}
        assert record["test"]["accuracy"]["samples"] == 96
        assert (folder / record["artifact"] / "manifest.json").is_file()
    lines = (folder / "records.jsonl").read_text().splitlines()
    states = [json.loads(line)["state"] for line in lines]
    assert sum(state != "infeasible" for state in states) == 4


def test_stdout_is_data_and_stderr_names_the_next_commands(run: Path) -> None:
    content = json.loads((run / "stdout.json").read_text())
    assert content["front"]
    said = (run / "stderr.txt").read_text()
    for command in ("ui runs/tiny", "export runs/tiny --pick knee", "resume runs/tiny"):
        assert f"python -m search {command}" in said
    assert "Traceback" not in said
    assert "Warning" not in said


def test_the_same_command_again_only_reports(run: Path) -> None:
    before = (run / "runs" / "tiny" / "records.jsonl").read_text()
    done = search("run", "experiment.toml", "--json", folder=run)
    assert done.returncode == 0, done.stderr
    assert (run / "runs" / "tiny" / "records.jsonl").read_text() == before
    assert json.loads(done.stdout) == json.loads((run / "stdout.json").read_text())


def test_an_exported_artifact_measures_as_recorded_in_another_folder(run: Path) -> None:
    to = run / "elsewhere" / "model"
    done = search("export", "runs/tiny", "--pick", "fastest", "--to", str(to), folder=run)
    assert done.returncode == 0, done.stderr
    recorded = json.loads(done.stdout)["measurements"]
    again = search("measure", str(to), folder=run)
    assert again.returncode == 0, again.stderr
    measured = json.loads(again.stdout)["measurements"]
    assert measured["accuracy"]["value"] == recorded["accuracy"]["value"]
    assert measured["size"]["value"] == recorded["size"]["value"]
    synthetic = json.loads((to / "manifest.json").read_text())["notes"]["seconds"]
    assert measured["latency"]["value"] == pytest.approx(1e3 * synthetic)
    baseline = json.loads((run / "runs" / "tiny" / "front.json").read_text())["baseline"]
    unchanged = baseline["measurements"]["latency"]["value"]
    ratio = recorded["latency"]["ratio"]["value"]
    assert ratio * unchanged == pytest.approx(recorded["latency"]["value"])
    second = search("export", "runs/tiny", "--pick", "fastest", "--to", str(to), folder=run)
    assert second.returncode == 2
    assert "exists and is not empty" in second.stderr


def test_an_altered_artifact_is_refused(run: Path) -> None:
    front = json.loads((run / "runs" / "tiny" / "front.json").read_text())
    copy = run / "altered"
    shutil.copytree(run / "runs" / "tiny" / front["front"][0]["artifact"], copy)
    weights = copy / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    done = search("measure", str(copy), folder=run)
    assert done.returncode == 2
    assert "was altered since it was exported" in done.stderr


def remade(run: Path, to: Path, **fields: object) -> Path:
    """Return a copy of the baseline's artifact with other fields in its manifest."""
    copy = shutil.copytree(run / "runs" / "tiny" / "artifacts" / "0", to / "model")
    file = copy / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return copy


MANY = {"count": 4096, "strategy": "replicate"}
DEAD = "def model(): ...\ndef batches(split, batch_size):\n    raise OSError('no disk')\n"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"placement": MANY}, "cannot be measured here: 4096 devices of 1 threads each need"),
        ({"placement": {"number": 2}}, "cannot be measured: TypeError"),
    ],
)
def test_an_artifact_that_cannot_be_measured_is_one_line(
    run: Path, tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    done = search("measure", str(remade(run, tmp_path, **fields)), folder=run)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target": {"device": "cpu", "cores": 2}}, "is not one of this version: TypeError"),
        ({"objectives": {"latency": {"rounds": 3}}}, "is not one of this version: TypeError"),
        ({"task": {"name": "python"}}, "is not one of this version: KeyError"),
        ({"files": None}, "is not a manifest: AttributeError"),
    ],
)
def test_a_manifest_of_another_version_is_one_line(
    run: Path,
    tmp_path: Path,
    fields: dict[str, object],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(("measure", str(remade(run, tmp_path, **fields)))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_task_that_fails_while_an_artifact_is_measured_is_one_line(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "dead.py").write_text(DEAD)
    artifact = remade(run, tmp_path)
    task = str(tmp_path / "dead.py")
    done = search("measure", str(artifact), "--task", task, folder=run)
    assert done.returncode == 2
    assert done.stderr == f"error: {artifact} cannot be measured: OSError: no disk\n"


def test_front_and_its_errors(run: Path) -> None:
    done = search("front", "runs/tiny", folder=run)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].startswith("baseline")
    assert search("front", "nowhere", folder=run).returncode == 2
    wrong = search("export", "runs/tiny", "--pick", "fastst", "--to", "x", folder=run)
    assert wrong.returncode == 2
    assert "Did you mean 'fastest'" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rum",), "Did you mean 'run'"),
        (("run", "nothing.toml"), "no experiment at nothing.toml"),
        (("run", "--task", "nothing.py"), "no task at nothing.py"),
        (("run", "experiment.toml", "--trials", "0"), "--trials must be a positive integer"),
        (("run", "experiment.toml", "--time", "soon"), "a time is written as"),
        (("resume", "runs/none"), "is not a run folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    project: Path,
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse ends by itself
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


def test_a_task_that_breaks_its_contract_is_named(project: Path) -> None:
    task = project / "task.py"
    task.write_text(task.read_text().replace("targets[start", "targets[0 * start"))
    task.write_text(
        task.read_text() + "\n\ndef score(outputs, targets):\n    return float('nan')\n"
    )
    done = search("check", "experiment.toml", folder=project)
    assert done.returncode == 2
    assert "loss and score must be finite" in done.stderr


def test_check_names_and_the_dry_run(project: Path) -> None:
    done = search("check", "experiment.toml", folder=project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ok"
    plan = search("run", "experiment.toml", "--dry-run", folder=project)
    assert plan.returncode == 0, plan.stderr
    assert "first points:" in plan.stdout
    assert not (project / "runs").exists()
    listed = json.loads(search("names", "--json", folder=project).stdout)
    assert listed["techniques"]["prune.channels"]["ratio"]["unit"] == "fraction of channels"
    assert "openvino" in listed["runtimes"]


@pytest.mark.slow
def test_an_interrupt_keeps_everything_and_resume_continues(project: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "search", "run", "experiment.toml", "--trials", "4"],
        cwd=project,
        env=environment(project),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A background job inherits an ignored SIGINT; a user's terminal does not give one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    records = project / "runs" / "tiny" / "records.jsonl"
    for _ in range(1200):
        if records.is_file() and records.read_text().count("complete") >= 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "python -m search resume runs/tiny" in said
    kept = records.read_text().splitlines()
    done = search("resume", "runs/tiny", "--trials", "4", "--json", folder=project)
    assert done.returncode == 0, done.stderr
    after = records.read_text().splitlines()
    assert [json.loads(line)["point"] for line in after[: len(kept)]] == [
        json.loads(line)["point"] for line in kept
    ]
    states = [json.loads(line)["state"] for line in after]
    assert sum(state != "infeasible" for state in states) == 4


@pytest.mark.slow
def test_a_run_that_starts_from_another_notes_it_and_is_resumed_as_it_began(run: Path) -> None:
    project, other, run = run, run / "other", run / "runs" / "tiny"
    plan = search("run", "experiment.toml", "--from", str(run), "--dry-run", folder=project)
    assert f"of {run}" in plan.stdout, plan.stderr
    options = ("experiment.toml", "--out", str(other))
    done = search("run", *options, "--from", str(run), "--trials", "2", folder=project)
    assert done.returncode == 0, done.stderr
    start = json.loads((other / "environment.json").read_text())["start"]
    assert start["run"] == str(run)
    assert start["told"] in done.stderr.replace("\n", " ")
    done = search("resume", str(other), "--trials", "3", folder=project)
    assert done.returncode == 0, done.stderr
    assert json.loads((other / "environment.json").read_text())["start"] == start
    refused = search("run", *options, "--from", str(other), folder=project)
    assert refused.returncode == 2
    assert f"has begun from {run}" in refused.stderr
