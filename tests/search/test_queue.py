"""The feed: what executors with several workers may rely on."""

import dataclasses
from pathlib import Path

import optuna
import pytest
from _answers import answer, measured, opened

from objectives import Measurement
from search.executors.local import failed
from search.records.record import Record
from search.records.stopping import PROBE, Rung
from search.study.queue import Queue
from search.study.study import PendingTrial, Study


def fed(study: Study, seconds: float | None = None) -> tuple[Queue, list[Record]]:
    """Return a feed of a study, and where it tells records."""
    told: list[Record] = []
    feed = Queue(
        study,
        seconds=seconds,
        on_record=told.append,
        on_start=lambda asked: None,
        progress=lambda *message: None,
    )
    return feed, told


def taken(feed: Queue, count: int) -> list[PendingTrial]:
    """Return `count` trials under way at once."""
    asked = [feed.ask() for _ in range(count)]
    assert all(asked)
    return [a for a in asked if a]


def test_trials_under_way_count_against_the_budget(project: Path) -> None:
    feed, told = fed(opened(project, 4))
    under_way = taken(feed, 4)
    assert feed.ask() is None
    assert not feed.finished
    assert len({str(a.point) for a in under_way}) == 4
    for asked in under_way:
        feed.tell(asked, answer(asked))
    assert feed.finished
    assert [r.trial for r in told] == [a.trial for a in under_way]


def test_answers_may_come_in_any_order_and_failures_too(project: Path) -> None:
    study = opened(project, 6)
    feed, told = fed(study)
    under_way = taken(feed, 3)
    feed.tell(under_way[2], answer(under_way[2]))
    feed.tell(under_way[1], failed(under_way[1], "null", "its worker was lost", 1.0))
    feed.tell(under_way[0], answer(under_way[0]))
    while asked := feed.ask():
        feed.tell(asked, answer(asked))
    assert feed.finished
    assert study.paid == len(told) == 6
    assert [r.state for r in told[:3]] == ["complete", "failed", "complete"]


def test_what_came_before_the_baseline_is_judged_once_it_is_there(project: Path) -> None:
    file = project / "experiment.toml"
    limited = file.read_text().replace(
        "[objectives.accuracy]", "[objectives.accuracy]\nwithin = 0.02"
    )
    file.write_text(limited.replace('["null"]', '["eager"]'))
    study = opened(project)
    feed, _ = fed(study)
    baseline, *others = taken(feed, 5)
    assert baseline.forced
    for asked in others:
        feed.tell(asked, answer(asked))
    early = [r for r in study.records if r.state == "complete"]
    assert all(not r.limits for r in early)
    feed.tell(baseline, answer(baseline))
    judged = [r for r in study.records if r.state == "complete"]
    assert all(r.limits for r in judged)
    pruned = [r for r in judged if r.point["prune.channels.ratio"]]
    assert pruned
    assert all(not r.satisfied for r in pruned)
    assert all(r.satisfied for r in study.front())


def test_what_was_not_answered_is_asked_again(project: Path) -> None:
    study = opened(project)
    feed, _ = fed(study)
    under_way = taken(feed, 3)
    feed.tell(under_way[0], answer(under_way[0]))
    feed.close()
    again, _ = fed(study)
    assert [a.point for a in taken(again, 2)] == [a.point for a in under_way[1:]]


def test_a_space_that_is_used_up_is_not_asked_again_before_a_trial_has_ended(
    project: Path,
) -> None:
    file = project / "experiment.toml"
    small = file.read_text().replace("[0.0, 0.25, 0.5]", "[0.0, 0.5]")
    small = small.replace("weight_bits = [32, 8]", "weight_bits = [32]")
    small = small.replace("activation_bits = [32, 8]", "activation_bits = [32]")
    file.write_text(small.replace("steps = [0, 3]", "steps = [0]"))
    study = opened(project)
    feed, _ = fed(study)
    under_way = taken(feed, 4)  # 2 ratios in 2 runtimes
    assert feed.ask() is None
    before = optuna_trials(project)
    assert [feed.ask() for _ in range(5)] == [None] * 5
    assert optuna_trials(project) == before
    assert not feed.finished
    for asked in under_way:
        feed.tell(asked, answer(asked))
    assert feed.ask() is None
    assert feed.finished
    assert feed.exhausted


def optuna_trials(project: Path) -> int:
    storage = f"sqlite:///{project / 'run' / 'study.db'}"
    return len(optuna.load_study(study_name=None, storage=storage).get_trials())


def test_no_time_is_left(project: Path) -> None:
    feed, _ = fed(opened(project), seconds=0.0)
    assert feed.finished
    assert feed.ask() is None


@pytest.mark.parametrize("forced", [True, False])
def test_what_cannot_reach_the_front_stops_unless_it_is_a_baseline(
    project: Path, forced: bool
) -> None:
    study = opened(project)
    feed, _ = fed(study)
    (baseline,) = taken(feed, 1)
    feed.tell(baseline, answer(baseline))
    better = {"latency": measured(0.01, "ms"), "size": measured(1, "bytes")}
    better["accuracy"] = answer(baseline).measurements["accuracy"]
    (asked,) = taken(feed, 1)
    feed.tell(asked, Record(**{**vars(answer(asked)), "measurements": better}))
    slow = {"latency": measured(9.0, "ms"), "size": measured(9000, "bytes")}
    reason = feed.judge(
        PendingTrial(trial=99, point={}, forced=forced), Rung(name=PROBE, measurements=slow)
    )
    assert (reason is None) is forced


@pytest.mark.parametrize(("half", "stops"), [(0.8, True), (1.2, False)])
def test_a_difference_that_measuring_again_could_bring_stops_nobody(
    project: Path, half: float, stops: bool
) -> None:
    def latency(value: float) -> Measurement:
        return dataclasses.replace(measured(value, "ms"), low=value - half, high=value + half)

    study = opened(project)
    feed, _ = fed(study)
    (baseline,) = taken(feed, 1)
    own = answer(baseline).measurements | {"latency": latency(2.0)}
    feed.tell(baseline, Record(**{**vars(answer(baseline)), "measurements": own}))
    found = {"latency": latency(3.0), "size": measured(9000, "bytes")}
    reason = feed.judge(
        PendingTrial(trial=99, point={}, forced=False), Rung(name=PROBE, measurements=found)
    )
    assert (reason is not None) is stops
