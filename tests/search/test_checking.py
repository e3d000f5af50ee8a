"""What is found out before anything is paid: tasks, models and spaces, and what cannot be used."""

import json
import os
from pathlib import Path

import pytest

from search import run_folder
from search.checks import check
from search.checks.check import inspect_model
from search.checks.count_points import COUNTED, point_counts, require_executable
from search.cli.parser import main
from search.errors import BadExperiment, BadTask, SearchError
from search.experiment.experiment import Experiment
from search.study.opening import opening
from spaces import Point

TEACHING = {"distill.logits.steps": 3, "distill.logits.temperature": 4.0}


def single_column(project: Path) -> Experiment:
    """Return the project's experiment with a model of one output, and labels searched as well."""
    task = (project / "task.py").read_text()
    for old, new in (
        ("nn.Linear(32, 3)", "nn.Linear(32, 1)"),
        ("inputs[:, :3].argmax(1)", "inputs[:, :1]"),
    ):
        assert old in task
        task = task.replace(old, new)
    task += "\n\ndef loss(outputs, targets):\n    return ((outputs - targets) ** 2).mean()\n"
    task += "\n\ndef score(outputs, targets):\n    return -float(loss(outputs, targets))\n"
    (project / "task.py").write_text(task)
    text = (project / "experiment.toml").read_text()
    text = text.replace("steps = [0, 3]", 'steps = [0, 3]\nlabels = ["soft", "hard"]')
    return Experiment.parse(text, project)


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_temperature_and_labels_are_dead_where_outputs_have_one_column(
    project: Path, labels: str
) -> None:
    experiment, _ = inspect_model(single_column(project))
    neutral = experiment.space.neutral()
    point = neutral | TEACHING | {"distill.logits.labels": labels}
    assert experiment.space.canonical(point) == neutral | {"distill.logits.steps": 3}
    temperatures = {p["distill.logits.temperature"] for p in opening(experiment)}
    assert temperatures == {1.0}


def test_temperature_is_alive_where_outputs_have_classes(project: Path) -> None:
    experiment, _ = inspect_model(Experiment.load(project / "experiment.toml"))
    point = experiment.space.neutral() | TEACHING
    assert experiment.space.canonical(point) == point
    assert experiment.notices == Experiment.load(project / "experiment.toml").notices


@pytest.mark.parametrize("kind", ["float64", "bfloat16"])
def test_a_model_of_another_type_is_said_to_be_deployed_in_float32(
    project: Path, kind: str
) -> None:
    file = project / "task.py"
    task = file.read_text().replace("return nn.Sequential(", "return nn.Sequential(*[")
    file.write_text(task.replace("nn.Linear(32, 3))", f"nn.Linear(32, 3)]).to(torch.{kind})"))
    before = Experiment.load(project / "experiment.toml")
    experiment, model = inspect_model(before)
    (notice,) = set(experiment.notices) - set(before.notices)
    assert f"comes in {kind}" in notice
    assert "deployed in float32" in notice
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float32"}


def test_a_task_whose_data_do_not_fit_its_model_is_refused_before_the_first_trial(
    project: Path,
) -> None:
    file = project / "task.py"
    file.write_text(file.read_text().replace("torch.randn(96, 6", "torch.randn(96, 5"))
    with pytest.raises(BadTask, match="forward failed: RuntimeError"):
        inspect_model(Experiment.load(project / "experiment.toml"))


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
UNTRAINED = ("[space.distill.logits]\ntemperature = [1.0, 4.0]\nsteps = [0, 3]\n", "")


def edited(file: Path, *changes: tuple[str, str]) -> None:
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def target(field: str) -> tuple[str, str]:
    return "[space.prune", f"[target]\n{field}\n[space.prune"


def checked(project: Path) -> list[str]:
    return check.check(Experiment.load(project / "experiment.toml"))


NO_TEST = (
    "    inputs = torch.randn(",
    "    assert seed < 3, 'no such file'\n    inputs = torch.randn(",
)


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_split_that_is_missing_is_said_before_the_first_trial(
    project: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project)
    edited(project / "task.py", NO_TEST)
    assert main((command, "experiment.toml")) == 2
    said = capsys.readouterr().err
    assert said == 'error: batches("test", 1) failed: AssertionError: no such file\n'
    assert not list(project.glob("runs/tiny/artifacts/*"))


def test_the_default_loss_says_that_it_is_the_default(project: Path) -> None:
    edited(project / "task.py", ("return nn.Sequential(", "return Decision("))
    with (project / "task.py").open("a") as file:
        file.write(
            "\nclass Decision(nn.Sequential):\n"
            "    def forward(self, x):\n        return super().forward(x)[:, 0] > 0\n"
            "\ndef score(outputs, targets):\n    return float(outputs.float().mean())\n"
        )
    with pytest.raises(BadTask) as caught:
        checked(project)
    said = str(caught.value)
    assert "the task has no loss(), and the default" in said
    assert "outputs [8] bool" in said
    assert "write loss(outputs, targets) in the task" in said
    edited(project / "experiment.toml", UNTRAINED)  # where nothing is trained none is needed
    assert any("no loss, and nothing is trained" in line for line in checked(project))


def test_the_default_score_refuses_what_it_would_compare_crosswise(project: Path) -> None:
    edited(project / "task.py", ("inputs[:, :3].argmax(1)", "inputs[:, :3].argmax(1, True)"))
    with (project / "task.py").open("a") as file:
        file.write("\ndef loss(outputs, targets):\n    return outputs.square().mean()\n")
    given = r"outputs \[\d+, 3\] float32 and targets \[\d+, 1\] int64: write score\("
    with pytest.raises(BadTask, match=given):
        checked(project)


def test_batches_of_another_size_are_the_batches_fault(project: Path) -> None:
    edited(
        project / "experiment.toml", ("[space.prune", "[target]\nbatch_size = 100\n[space.prune")
    )
    with pytest.raises(BadTask) as caught:
        checked(project)
    assert str(caught.value).startswith('batches("train", 100): its first batch has 96 samples')
    assert "lower target.batch_size" in str(caught.value)


def test_what_is_only_scored_need_not_fill_a_batch(project: Path) -> None:
    edited(project / "experiment.toml", target("batch_size = 64"))
    edited(
        project / "task.py", ("range(0, 96, batch_size)", "range(64 * (seed > 2), 96, batch_size)")
    )
    assert checked(project)[-1] == "ok"


@pytest.mark.parametrize("command", ["check", "run"])
def test_more_threads_than_there_are_cores_are_refused_before_anything_is_paid(
    project: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project)
    edited(project / "experiment.toml", target(f"threads = {CORES + 1}"))
    assert main((command, "experiment.toml")) == 2
    said = capsys.readouterr().err
    assert "no point of the space can be executed: the target has" in said
    assert "lower target.threads" in said
    assert len(said.splitlines()) == 1
    assert not (project / "runs" / "tiny" / "study.db").exists()


def test_large_spaces_are_drawn_from(project: Path) -> None:
    edited(
        project / "experiment.toml",
        ("[0.0, 0.25, 0.5]", "{ low = 0.0, high = 0.5, step = 0.0001 }"),
    )
    experiment = Experiment.load(project / "experiment.toml")
    assert experiment.space.size() > COUNTED

    def half(point: Point) -> str | None:
        return "eager is refused" if point["deploy.runtime.name"] == "eager" else None

    lines = point_counts(experiment, half)
    share = float(lines[1].partition("about ")[2].partition("%")[0])
    assert 45 < share < 55  # 2,000 draws of a fair coin: 50 +- 3.4 (3 sigma)
    assert any("cannot: eager is refused" in line for line in lines)


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        ('sampler = "haltn"', "haltn"),
        ('executor = "retri"', "retri"),
        ("[executor.ray]\nretrys = 1\n", "retrys"),
    ],
)
def test_a_sampler_or_executor_that_does_not_exist_is_refused(
    project: Path, table: str, wrong: str
) -> None:
    file = project / "experiment.toml"
    parts = [file.read_text(), table]
    file.write_text("\n".join(parts if "[" in table else reversed(parts)))
    with pytest.raises(SearchError, match=wrong):
        checked(project)


def test_a_continuous_range_has_no_number_of_points(project: Path) -> None:
    edited(project / "experiment.toml", ("[0.0, 0.25, 0.5]", "{ low = 0.0, high = 0.5 }"))
    (space,) = [line for line in checked(project) if line.startswith("space")]
    assert space == "space     6 dimensions, of which some are continuous"


def test_one_point_among_very_many_is_found(project: Path) -> None:
    edited(project / "experiment.toml", ("[0.0, 0.25, 0.5]", "{ low = 0.0, high = 0.5 }"))
    experiment = Experiment.load(project / "experiment.toml")
    wanted = {
        "deploy.runtime.name": "null",
        "distill.logits.steps": 3,
        "distill.logits.temperature": 4.0,
        "quantize.integer.weight_bits": 8,
        "quantize.integer.activation_bits": 32,
    }
    require_executable(experiment, lambda p: None if wanted.items() <= p.items() else "no")
    with pytest.raises(BadExperiment, match="no point of the space can be executed: never"):
        require_executable(experiment, lambda p: "never")


LATE = """
_whole = batches


def batches(split, batch_size):
    if split == "test" and batch_size > 1:
        raise OSError("the disk went away")
    return _whole(split, batch_size)
"""


@pytest.mark.slow
def test_a_front_that_cannot_be_confirmed_is_kept_and_marked(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    whole = (project / "task.py").read_text()
    (project / "task.py").write_text(whole + LATE)
    assert main(("run", "experiment.toml", "--trials", "3")) == 75
    out, err = capsys.readouterr()
    assert "the front could not be confirmed: Crashed: OSError: the disk went away" in err
    assert "resume runs/tiny" in err
    assert "NOT been measured again" in out
    run = project / "runs" / "tiny"
    assert json.loads((run / "front.json").read_text())["front"]
    assert "has NOT been measured again" in (run / "report.html").read_text()
    assert run_folder.read_front(run)[2] is False
    # resumed where it can be confirmed, it is, without another trial
    count = (run / "records.jsonl").read_text().count("\n")
    (project / "task.py").write_text(whole)
    assert main(("resume", "runs/tiny", "--trials", "3")) == 0
    assert run_folder.read_front(run)[2] is True
    assert (run / "records.jsonl").read_text().count("\n") == count


def test_energy_without_a_counter_is_refused_before_anything_is_paid(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "experiment.toml").read_text()
    (project / "energy.toml").write_text(
        f'{text}\n[objectives.energy]\ncounters = "{project / "none"}"\n'
    )
    assert main(["run", str(project / "energy.toml"), "--out", str(project / "run")]) == 2
    said = capsys.readouterr().err
    assert "no point of the space can be executed: energy: this machine shows no energy" in said
    assert not (project / "run" / "study.db").exists()
