"""`init`: what it writes passes a check once it is filled in, and nothing is overwritten."""

from pathlib import Path

import pytest
from conftest import TASK

from search.checks import check
from search.cli.parser import main
from search.errors import BadTask
from search.experiment import Experiment

MODEL = TASK[TASK.index("    torch.manual_seed") : TASK.index("\n\ndef batches")]
BATCHES = TASK[TASK.index("    seed = {") :]
OPTIONAL = ("loss", "score")


def written(folder: Path) -> Experiment:
    assert main(["init", str(folder)]) == 0
    return Experiment.load(folder / "experiment.toml")


def filled(text: str) -> str:
    """Return the task with a small model and its data in the places that raise."""
    text = text.replace('    raise NotImplementedError("return your trained model")', MODEL)
    return text.replace('    raise NotImplementedError("yield the batches of your data")', BATCHES)


@pytest.mark.parametrize("optional", [False, True])
def test_what_is_written_passes_a_check_when_filled_in(tmp_path: Path, optional: bool) -> None:
    experiment = written(tmp_path / "new")
    task = tmp_path / "new" / "task.py"
    text = filled(task.read_text())
    if optional:  # its commented functions are code
        start, end = text.index("# def loss"), text.index("# def metric")
        text = text[:start] + text[start:end].replace("# ", "").replace("#\n", "\n")
    task.write_text(text)
    lines = check.check(experiment)
    assert lines[-1] == "ok"
    assert any("score" in line for line in lines)


def test_what_is_not_filled_in_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadTask, match=r"model\(\) failed: .*return your trained model"):
        check.check(written(tmp_path))


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiment.toml").write_text("mine")
    assert main(["init", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "experiment.toml exists and is not overwritten" in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.toml"]
    assert (tmp_path / "experiment.toml").read_text() == "mine"
