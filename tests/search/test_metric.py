"""A task's metric(): rehearsed batch by batch, refused beside a score, searched with intervals."""

import shutil
from pathlib import Path

import pytest
from test_checking import checked

import search
from search.errors import BadTask
from search.experiment import Experiment
from search.records import difference

METRIC = """

class Share:
    higher_is_better = {better}

    def __init__(self):
        self.reset()

    def reset(self):
        self.right = self.seen = 0

    def update(self, outputs, targets):
        self.right += int((outputs.argmax(1) == targets).sum())
        self.seen += len(targets)

    def compute(self):
        return {value}


def metric():
    return Share()
"""


def with_metric(project: Path, better: bool = True, value: str = "self.right / self.seen") -> None:
    with (project / "task.py").open("a") as file:
        file.write(METRIC.format(better=better, value=value))


def scored(project: Path) -> str:
    return next(line for line in checked(project) if line.startswith("validation"))


def test_it_is_fed_batch_by_batch_before_any_trial(project: Path) -> None:
    (project / "plain").mkdir()
    for name in ("task.py", "experiment.toml"):
        shutil.copy(project / name, project / "plain")
    plain = scored(project / "plain").partition("score ")[2]
    with_metric(project)
    assert scored(project).partition("metric ")[2] == plain


def test_lower_is_better_is_negated_and_said(project: Path) -> None:
    with_metric(project, better=False)
    line = scored(project)
    assert "metric -0." in line
    assert line.endswith("samples, negated as lower is better")


def test_one_that_the_first_samples_do_not_have_is_the_whole_splits(project: Path) -> None:
    with_metric(project, value="self.right / self.seen if self.seen > 95 else float('nan')")
    assert "of 96 samples" in scored(project)


@pytest.mark.parametrize(
    ("added", "fault"),
    [
        ("\ndef score(outputs, targets):\n    return 1.0\n", r"has both score\(\) and metric\(\)"),
        ("\nShare.update = lambda self: None\n", r"metric\(\), fed in batches, failed: TypeError"),
        ("\nShare.compute = lambda self: {'a': 1}\n", "must return one number, got a dict"),
        ("\nShare.compute = lambda self: float('nan')\n", "must be finite"),
    ],
)
def test_faults_of_it_are_one_line(project: Path, added: str, fault: str) -> None:
    with_metric(project)
    with (project / "task.py").open("a") as file:
        file.write(added)
    with pytest.raises(BadTask, match=fault) as error:
        checked(project)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.slow
def test_records_of_a_search_by_it_are_compared_in_pairs(project: Path) -> None:
    with_metric(project)
    experiment = Experiment.load(project / "experiment.toml")
    result = search.run(experiment, trials=3, out=project / "run", quiet=True)
    score = result.baseline.measurements["accuracy"]
    assert score.low < score.value < score.high
    assert len(score.resamples) == 16
    member = result.front[-1].measurements["accuracy"]
    assert difference(member, score) is not None
