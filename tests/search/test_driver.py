"""The search as a whole, with trials and a machine that are only imagined."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from _machines import Imagined, Machine

from search import run_folder
from search.driver import Search
from search.errors import BadEnvironment, BadTask
from search.evaluation import confirm
from search.experiment.experiment import Experiment
from search.records.record import Record
from search.reporting.console import Console
from search.reporting.summary import Summary
from search.study.queue import Queue


class Silent:
    """A tracking server that nobody listens to."""

    address = ""
    closed: ClassVar[list[str]] = []
    """How the study's run was closed."""

    def location(self) -> None:
        return None

    def sync(self, summary: Summary) -> bool:
        return True

    def finish(self, summary: Summary, run: Path, status: str = "FINISHED") -> bool:
        self.closed.append(status)
        return True


class Slower(dict[int, float]):
    """Times that are much worse than any that the search saw, the baseline's excepted."""

    def __missing__(self, trial: int) -> float:
        return 1.0 if trial == 0 else 100.0 + trial


Make = Callable[..., tuple[Search, Imagined]]


@pytest.fixture
def make(project: Path) -> Make:
    """What makes a search of the tiny experiment, new or continued."""

    def search(trials: int = 8, **executor: Any) -> tuple[Search, Imagined]:
        experiment = Experiment.load(project / "experiment.toml")
        experiment = dataclasses.replace(experiment, trials=trials)
        run = project / "run"
        run.mkdir(exist_ok=True)
        machine = executor.pop("machine", Machine(Slower(), drift=1.0))
        made = Imagined(experiment, run, machine, **executor)
        return Search(
            experiment=experiment,
            folder=run,
            executor=made,
            tracker=Silent,
            console=Console(quiet=True),
            command="",
        ), made

    return search


def without_accuracy(project: Path) -> None:
    file = project / "experiment.toml"
    file.write_text(file.read_text().replace("[objectives.accuracy]\n", ""))


def test_a_front_is_called_confirmed_only_when_each_member_is(make: Make, project: Path) -> None:
    search, executor = make(trials=12)
    summary = search.run()
    assert len(executor.confirmed) > 3  # each round's values bring others to the front
    assert summary.confirmed
    assert summary.front
    assert not confirm.pending(summary.front, summary.baseline)
    assert run_folder.read_front(project / "run")[2] is True


def test_what_is_confirmed_is_not_measured_again_also_without_a_score(
    make: Make, project: Path
) -> None:
    without_accuracy(project)
    search, executor = make()
    first = search.run()
    confirmed = [trial for _, *members in executor.confirmed for trial in members]
    assert len(confirmed) == len(set(confirmed))
    again, executor = make()
    second = again.run()
    assert executor.asked == 0
    assert executor.confirmed == []
    assert second.confirmed
    assert second.front == first.front


def test_a_confirmation_that_fails_for_a_passing_reason_is_made_up_for(make: Make) -> None:
    machine = Machine(Slower(), drift=1.0)
    machine.crashing = set(range(99))
    search, executor = make(machine=machine)

    def crash(records: list[Record], reference: Record, listener: Any) -> dict[str, Any]:
        from search.errors import BadEnvironment
        from search.measuring.server import Crashed

        try:
            return Imagined.confirm(executor, records, reference, listener)
        except Crashed as error:  # as executors do
            raise BadEnvironment(str(error)) from error

    executor.confirm = crash  # type: ignore[method-assign]
    before = search.run()
    assert not before.confirmed
    assert all(r.state != "failed" for r in before.records)
    again, executor = make()
    after = again.run()
    assert executor.asked == 0
    assert after.confirmed
    assert all(r.state != "failed" for r in after.records)


def test_an_unchanged_model_that_fails_ends_the_search_and_is_tried_again(
    make: Make, project: Path
) -> None:
    search, executor = make(trials=2, fails=lambda record: True)
    with pytest.raises(BadTask, match="unchanged model cannot be measured: the disk went away"):
        search.run()
    assert executor.asked == 2  # in each of its runtimes
    again, executor = make(trials=2)
    summary = again.run()
    assert executor.asked == 2
    assert summary.baseline.point == executor.experiment.space.neutral()
    assert summary.baseline.trial > 1


def test_other_runtimes_stand_in_for_the_one_where_the_unchanged_model_fails(make: Make) -> None:
    search, executor = make(fails=lambda record: record.trial == 0)
    summary = search.run()
    assert executor.asked == 8
    assert summary.baseline.runtime == "null"


def test_a_search_that_cannot_go_on_is_not_left_running_for_reviewers(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, executor = make()
    run = executor.run

    def ends(feed: Queue) -> None:
        run(feed)
        raise BadEnvironment("the cluster has gone away")

    monkeypatch.setattr(executor, "run", ends)
    monkeypatch.setattr(Silent, "closed", [])
    with pytest.raises(BadEnvironment, match="gone away"):
        search.run()
    assert Silent.closed == ["FAILED"]
