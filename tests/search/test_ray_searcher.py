"""The study as Ray Tune sees it, without a cluster: turns, and that all asked is told."""

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest
from _answers import answer, measured, opened
from _searcher import (
    PLACED,
    Cluster,
    Controller,
    Named,
    Points,
    config_of,
    said,
    searching,
    task_error,
    trials,
)
from optuna.trial import TrialState
from ray.tune.search import Searcher

from search.executors.ray.control import RungScheduler
from search.executors.ray.losses import KILLED
from search.executors.ray.searcher import StudySearcher
from search.records.stopping import Rung
from search.signals import Stopped
from search.study.study import PendingTrial, Study
from spaces import Point


def placed(project: Path) -> tuple[Study, Point, Point]:
    """Return a study of points on one and on two devices, and one of each."""
    file = project / "experiment.toml"
    file.write_text(file.read_text().replace("[space.deploy", PLACED + "[space.deploy"))
    study = opened(project)
    small = study.experiment.space.neutral()
    return study, small, small | {"placement.devices.count": 2}


def test_a_large_point_gets_its_turn_before_small_ones_that_keep_coming(project: Path) -> None:
    study, small, large = placed(project)
    searcher = StudySearcher(
        Points(study, [small, large, small]), Cluster(experiment=study.experiment)
    )
    assert config_of(searcher, "a")["point"] == small
    assert config_of(searcher, "b")["point"] == large  # a small one that waits holds nobody up
    searcher.started("a")
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", error=True)  # a small one's place is free
    assert searcher.suggest("c") is None
    searcher.started("b")
    assert config_of(searcher, "c")["point"] == small


def test_a_large_point_that_ends_before_it_starts_holds_nobody_up(project: Path) -> None:
    study, small, large = placed(project)
    searcher = StudySearcher(Points(study, [large, small]), Cluster(experiment=study.experiment))
    config_of(searcher, "a")
    searcher.on_trial_complete("a", error=True)
    assert config_of(searcher, "b")["point"] == small


def test_a_large_point_whose_machines_have_left_holds_nobody_up(project: Path) -> None:
    study, small, large = placed(project)
    gone = Cluster(experiment=study.experiment, refusal="It asks for more than is left.")
    searcher = StudySearcher(Points(study, [large, small]), gone)
    config_of(searcher, "a")
    assert config_of(searcher, "b")["point"] == small


def test_a_trial_starts_again_where_it_was_lost_if_no_other_machine_is_left(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.executors.ray.searcher.PAUSE", 0.0)
    monkeypatch.setattr("search.executors.ray.searcher.STARVED", -1.0)
    study = opened(project, 1)
    feed = searching(study)[1]
    both = Cluster(experiment=study.experiment)
    searcher = StudySearcher(feed, both)
    first = config_of(searcher, "first")
    searcher.on_trial_result("first", said(machine="one", worker="w"))
    searcher.on_trial_complete("first", error=True)
    assert config_of(searcher, "waits")["avoid"] == "one"
    scheduler, controller = RungScheduler(searcher), Controller(searcher, Named("waits"))
    scheduler.choose_trial_to_run(controller)
    assert searcher.suggest("none") is None  # it still waits for the other machine
    monkeypatch.setattr(searcher, "_cluster", dataclasses.replace(both, left="one"))
    searcher.check()  # a healthy machine is there: nothing is to be given up
    scheduler.choose_trial_to_run(controller)
    assert config_of(searcher, "again") == first
    searcher.on_trial_complete("again", error=True)
    (record,) = study.records
    assert record.reason is not None
    assert record.reason.endswith("twice")


def test_every_way_to_end_is_told_to_the_study(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.executors.ray.searcher.PAUSE", 0.0)
    study = opened(project, 4)
    searcher, feed = searching(study)
    configs = {name: config_of(searcher, name) for name in ("done", "behind", "broken", "lost")}
    own = {"latency": measured(9.0, "ms"), "accuracy": measured(0.1, "score")}
    rung = Rung(name="50% of training", measurements=own)
    monkeypatch.setattr(feed, "judge", lambda asked, rung: f"behind after {rung.name}")
    behind = said(rung=rung.to_json())
    assert RungScheduler(searcher).on_trial_result(None, Named("behind"), behind) == "STOP"
    searcher.on_trial_complete("behind", behind)
    number, point = configs["done"]["trial"], configs["done"]["point"]
    record = answer(PendingTrial(trial=number, point=point, forced=True))
    searcher.on_trial_complete("done", said(result=record.to_json()))
    searcher.on_trial_complete("broken", said(failed="ValueError: no weights here"))
    for name in ("lost", "again"):
        searcher.on_trial_result(name, said(machine="one", worker=name))
        searcher.worker_failed(name, task_error(f"{KILLED}its process was killed"))
        searcher.on_trial_complete(name, error=True)
        if name == "lost":
            assert config_of(searcher, "again") == configs["lost"] | {"avoid": "one"}
    assert searcher.suggest("none") == Searcher.FINISHED
    told = {t.number: t for t in trials(project)}
    assert {t.state for t in told.values()} == {
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
    }
    pruned = told[configs["behind"]["trial"]]
    assert (pruned.state, pruned.values) == (TrialState.PRUNED, None)
    reasons = {r.trial: r.reason for r in study.records}
    assert reasons[configs["behind"]["trial"]] == "behind after 50% of training"
    assert reasons[configs["broken"]["trial"]] == "ValueError: no weights here"
    assert reasons[configs["lost"]["trial"]] == "its process was killed, twice"
    kept = next(r for r in study.records if r.trial == pruned.number)
    assert set(kept.measurements) == {"latency"}  # a score on the way is an estimate


def test_an_interrupted_search_leaves_no_trial_running(project: Path) -> None:
    def interrupt(*message: Any) -> None:
        raise Stopped(signal.SIGINT)

    study = opened(project)
    searcher, feed = searching(study, progress=interrupt)
    numbers = [config_of(searcher, name)["trial"] for name in ("a", "b")]
    searcher.on_trial_result("a", said(stage="train", done=1, of=9, detail=""))
    assert isinstance(searcher.error, Stopped)
    assert searcher.suggest("c") == Searcher.FINISHED
    result = said(stage="train", done=1, of=9, detail="")
    assert RungScheduler(searcher).on_trial_result(None, Named("b"), result) == "STOP"
    for name in ("a", "b"):
        searcher.on_trial_complete(name, result)
    feed.close()
    ended = {t.number: t for t in trials(project)}
    assert all(t.state.is_finished() for t in ended.values())
    for number in numbers:
        assert ended[number].state == TrialState.FAIL
        assert ended[number].user_attrs["reason"] == "the search ended before it was evaluated"
    assert study.paid == 0
