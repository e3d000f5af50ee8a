"""What the console says beside the trials' lines."""

import dataclasses
from pathlib import Path

import pytest
from _examples import record

from search.experiment.experiment import Experiment
from search.records import Facts
from search.reporting.console import Console
from search.study.study import Study


def test_cores_that_others_use_are_said_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = project / "run"
    run.mkdir()
    experiment = Experiment.load(project / "experiment.toml")
    study = Study.open(run, experiment, lambda point: None)
    console = Console()
    for trial, share in enumerate((0.1, 0.6, 0.9)):
        facts = Facts(conditions={"others": share})
        console.trial(record(trial, 0.9, 1.0, 1000, facts=facts), study, None)
    said = capsys.readouterr().err
    assert said.count("note: other processes") == 1
    assert "used 60% of the cores when trial 1 was timed" in said


def test_what_comes_on_top_of_a_budget_of_time_is_said_beforehand(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = project / "run"
    run.mkdir()
    experiment = Experiment.load(project / "experiment.toml")
    for time, counts in ((None, 0), (300.0, 1)):
        limited = dataclasses.replace(experiment, time=time)
        Console().begin(limited, Study.open(run, limited, lambda point: None), run)
        said = capsys.readouterr().err
        assert said.count("no trial begins after 5 min 00 s") == counts
