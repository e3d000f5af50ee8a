"""What a search learns from the model before its first trial."""

from pathlib import Path

import pytest

from search.checking import informed
from search.errors import BadTask
from search.experiment import Experiment
from search.opening import opening

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
    experiment, _ = informed(single_column(project))
    neutral = experiment.space.neutral()
    point = neutral | TEACHING | {"distill.logits.labels": labels}
    assert experiment.space.canonical(point) == neutral | {"distill.logits.steps": 3}
    temperatures = {p["distill.logits.temperature"] for p in opening(experiment)}
    assert temperatures == {1.0}


def test_temperature_is_alive_where_outputs_have_classes(project: Path) -> None:
    experiment, _ = informed(Experiment.load(project / "experiment.toml"))
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
    experiment, model = informed(before)
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
        informed(Experiment.load(project / "experiment.toml"))
