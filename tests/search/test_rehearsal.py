"""What is rehearsed before the first trial: every valid task passes, every fault is one line."""

import dataclasses
from pathlib import Path

import pytest
import torch
from test_checking import UNTRAINED, checked, edited, target

from search.checks import inspect_model, rehearse
from search.errors import BadTask
from search.experiment import Experiment

LOSS = "\ndef loss(outputs, targets):\n    return (outputs[:, 0] - targets).square().mean()\n"

CORRELATION = (
    LOSS
    + """
def score(outputs, targets):
    one, other = outputs[:, 0] - outputs[:, 0].mean(), targets - targets.float().mean()
    assert len(targets) > 1, "a correlation needs at least two samples"
    return float((one * other).sum() / (one.norm() * other.norm()))
"""
)

CURVE = (
    LOSS
    + """
def score(outputs, targets):
    good, bad = outputs[targets > 0, 0], outputs[targets == 0, 0]
    {undefined}
    return float((good[:, None] > bad[None]).float().mean())
"""
)
NAN = "pass"
RAISED = 'assert len(good) and len(bad), "only one class"'

SORTED = [
    ("torch.randn(96, 6", "torch.randn(2 * 300, 6"),
    ("targets = inputs[:, :3].argmax(1)", "targets = torch.arange(600) // 300"),
    ("range(0, 96, batch_size)", "range(0, 600, batch_size)"),
]
"""Two classes, the first of which fills more than what is read at once."""


def added(project: Path, functions: str) -> None:
    with (project / "task.py").open("a") as file:
        file.write(functions)


def test_a_score_that_one_sample_does_not_have_can_be_searched_at_batch_1(project: Path) -> None:
    added(project, CORRELATION)
    lines = checked(project)
    assert lines[-1] == "ok"
    assert any(line.startswith("validation") and "score" in line for line in lines)


@pytest.mark.parametrize("undefined", [NAN, RAISED])
def test_a_score_that_the_first_samples_do_not_have_is_the_whole_splits(
    project: Path, undefined: str
) -> None:
    edited(project / "task.py", *SORTED)
    added(project, CURVE.format(undefined=undefined))
    lines = checked(project)
    assert any("score" in line and "of 600 samples" in line for line in lines)


@pytest.mark.parametrize("undefined", [NAN, RAISED])
def test_a_score_that_not_even_the_whole_split_has_is_refused(
    project: Path, undefined: str
) -> None:
    edited(project / "task.py", *SORTED, ("torch.arange(600) // 300", "torch.zeros(600).long()"))
    added(project, CURVE.format(undefined=undefined))
    with pytest.raises(BadTask, match=r"only one class|must be finite"):
        checked(project)


def test_a_mistake_in_the_score_is_said_without_running_the_whole_split(project: Path) -> None:
    edited(
        project / "task.py",
        *SORTED,
        ("yield", "assert split == 'train' or start < 512\n        yield"),
    )
    added(project, LOSS + "\ndef score(outputs, targets):\n    return outputs.acuracy()\n")
    with pytest.raises(BadTask, match=r"score\(outputs, targets\) on validation failed: Attribute"):
        checked(project)


def test_targets_of_training_may_be_mixed(project: Path) -> None:
    mixed = "targets = inputs[:, :3].argmax(1)\n    if split == 'train':\n        targets = "
    mixed += "0.9 * torch.eye(3)[targets] + 0.1 / 3"
    edited(project / "task.py", ("targets = inputs[:, :3].argmax(1)", mixed))
    assert checked(project)[-1] == "ok"


def test_test_data_are_read_and_run_but_not_scored(project: Path) -> None:
    edited(project / "task.py", ("targets = inputs", "targets = -(seed == 3) * 9 + inputs"))
    added(
        project,
        "\ndef score(outputs, targets):\n    assert (targets >= 0).all()\n"
        "    return float((outputs.argmax(1) == targets).float().mean())\n",
    )
    assert checked(project)[-1] == "ok"


def test_a_test_split_unlike_validation_is_refused(project: Path) -> None:
    whole = "yield inputs[start"
    other = f"if split == 'test':\n            inputs = inputs.view(96, 2, 3)\n        {whole}"
    edited(
        project / "task.py",
        (whole, other),
        ("return nn.Sequential(", "return nn.Sequential(nn.Flatten(), "),
    )
    with pytest.raises(BadTask) as caught:
        checked(project)
    assert str(caught.value).startswith('batches("test", 1) yields inputs [1, 2, 3] float32, those')


def test_a_test_split_that_the_model_cannot_take_is_refused(project: Path) -> None:
    edited(project / "task.py", ("96, 6, ", "96, 6 + (seed == 3), "))
    with pytest.raises(BadTask, match="forward failed: RuntimeError"):
        checked(project)


WEIGHTED = """
weight = torch.nn.Parameter(torch.ones(3))


def loss(outputs, targets):
    outputs.mul_(weight)
    return nn.functional.cross_entropy(outputs, targets)
"""


def test_a_loss_may_have_weights_and_edit_outputs(project: Path) -> None:
    added(project, WEIGHTED)
    assert checked(project)[-1] == "ok"


@pytest.mark.parametrize(("device", "threads"), [("cpu", 1), ("cuda", 3)])
def test_the_hosts_threads_are_limited_only_where_it_is_the_target(
    project: Path, device: str, threads: int
) -> None:
    experiment, model = inspect_model(Experiment.load(project / "experiment.toml"))
    target = dataclasses.replace(experiment.target, device=device)
    seen: set[int] = set()
    model.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        rehearse(dataclasses.replace(experiment, target=target), model)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {threads}


def test_a_loss_is_rehearsed_on_several_samples(project: Path) -> None:
    added(
        project,
        "\ndef loss(outputs, targets):\n    outputs = outputs / outputs.std(0)\n"
        "    return nn.functional.cross_entropy(outputs, targets)\n",
    )
    assert any("loss" in line and "nan" not in line for line in checked(project)[1:2])


def test_a_model_that_takes_only_the_targets_batches_can_be_searched_untrained(
    project: Path,
) -> None:
    edited(project / "task.py", ("return nn.Sequential(", "return nn.Sequential(One(), "))
    added(
        project,
        "\nclass One(nn.Module):\n    def forward(self, x):\n        return x.reshape(4, 6)\n",
    )
    edited(project / "experiment.toml", UNTRAINED, target("batch_size = 4"))
    assert checked(project)[-1] == "ok"


def test_outputs_without_a_row_for_each_sample_are_refused(project: Path) -> None:
    edited(project / "task.py", ("return nn.Sequential(", "return Mean("))
    added(
        project,
        "\nclass Mean(nn.Sequential):\n    def forward(self, x):\n"
        "        return super().forward(x).mean()\n",
    )
    with pytest.raises(BadTask, match="outputs must have the batch of 1 in dimension 0"):
        checked(project)
