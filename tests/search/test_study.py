"""The study: what is asked, in which order, and that nothing is asked twice or lost."""

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest
from _answers import answer, measured, no_eager_integers, opened
from optuna.trial import FrozenTrial, TrialState

from search.errors import BadRun
from search.executors.local import failed
from search.study.parameters import point_of
from search.study.study import Study
from spaces import Point


def asked_points(study: Study, count: int) -> list[Point]:
    points = []
    for _ in range(count):
        asked = study.ask()
        if asked is None:
            break
        study.tell(asked, answer(asked))
        points.append(asked.point)
    return points


def test_the_first_trials_are_the_neutral_point_in_every_runtime(project: Path) -> None:
    study = opened(project)
    first, second = asked_points(study, 2)
    neutral = study.experiment.space.neutral()
    assert first == neutral
    assert second == neutral | {"deploy.runtime.name": "null"}
    assert study.baseline is not None
    assert study.baseline.trial == 0


def test_no_point_is_asked_twice_and_none_that_cannot_be_executed(project: Path) -> None:
    study = opened(project)
    points = asked_points(study, 30)
    assert len({str(sorted(p.items())) for p in points}) == len(points) == 30
    assert all(no_eager_integers(point) is None for point in points)
    refused = [r for r in study.records if r.state == "infeasible"]
    assert refused
    assert all(r.reason == "eager has no integers" for r in refused)
    assert study.paid == 30


@pytest.mark.ci
@pytest.mark.slow
def test_dead_dimensions_cost_no_trial(project: Path) -> None:
    for point in asked_points(opened(project), 30):
        if point["distill.logits.steps"] == 0:
            assert point["distill.logits.temperature"] == 1.0


@pytest.mark.slow
def test_a_space_that_is_used_up_ends_the_search(project: Path) -> None:
    points = asked_points(opened(project, trials=500), 500)
    # 3 ratios x 3 trainings (none, T1, T4), in null with 4 pairs of bits, in eager with 2; where
    # neither pruning nor 8-bit weights lost anything, the 2 trainings of 2 + 2 points are left out.
    assert len(points) == 3 * 3 * (4 + 2) - 2 * (2 + 2)


@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_asks_what_a_whole_one_does(project: Path) -> None:
    whole = asked_points(opened(project), 30)
    pieces: list[Point] = []
    other = copied(project, "again")
    for until in (1, 5, 19, 21, 22, 25):  # the opening takes 18 trials
        study = opened(other)
        study.close_stale()
        pieces += asked_points(study, until - len(pieces))
        assert study.ask() is not None  # killed while this one runs
    study = opened(other)
    assert study.close_stale() == 1
    given_up = study.ask()
    assert given_up is not None
    study.abandon(given_up)  # stopped while this one runs
    pieces += asked_points(study, 30 - len(pieces))
    assert pieces == whole


class Killed(BaseException):
    """The process is killed at a certain place."""


def kill(monkeypatch: pytest.MonkeyPatch, name: str, *, before: bool) -> None:
    """Let the next call of a function of Optuna's be the last thing that a search does."""
    whole = getattr(optuna.Study, name)

    def last(*arguments: Any, **more: Any) -> None:
        if not before:
            whole(*arguments, **more)
        raise Killed

    monkeypatch.setattr(optuna.Study, name, last)


def trials_of(project: Path) -> list[FrozenTrial]:
    storage = f"sqlite:///{project / 'run' / 'study.db'}"
    return optuna.load_study(study_name=None, storage=storage).get_trials()


@pytest.mark.parametrize(
    ("name", "before"), [("enqueue_trial", False), ("ask", False), ("tell", True)]
)
def test_wherever_a_search_is_killed_points_stay_with_their_trials(
    project: Path, name: str, before: bool
) -> None:
    study = opened(project)
    points = asked_points(study, 2)
    with pytest.MonkeyPatch.context() as patch:
        kill(patch, name, before=before)
        with pytest.raises(Killed):
            points += asked_points(study, 1)
    study = opened(project)
    known = len(study.records)
    assert study.close_stale() == 1
    asked_points(study, 6 - study.paid)
    whole = asked_points(opened(copied(project, "other")), 6)
    assert [r.point for r in study.records if r.state == "complete"] == whole
    assert known == (3 if name == "tell" else 2)  # what was measured is not measured again
    closed = {t.number: t for t in trials_of(project)}
    assert all(point_of(closed[r.trial].params) == r.point for r in study.records)
    complete = {r.trial for r in study.records if r.state == "complete"}
    assert all(closed[trial].state is TrialState.COMPLETE for trial in complete)
    lost = [t for t in closed.values() if t.state is TrialState.FAIL]
    assert all(t.user_attrs["reason"] for t in lost)


def test_another_name_continues_the_run_under_the_name_it_was_begun_with(project: Path) -> None:
    before = asked_points(opened(project), 3)
    file = project / "experiment.toml"
    file.write_text(file.read_text().replace('name = "tiny"', 'name = "renamed"'))
    study = opened(project)
    assert [r.point for r in study.records if r.state == "complete"] == before
    assert study.experiment.name == "tiny"
    assert not {str(p) for p in before} & {str(p) for p in asked_points(study, 3)}


def test_an_unchanged_model_that_failed_is_asked_again_by_the_next_search(project: Path) -> None:
    study = opened(project, trials=2)
    for _ in range(2):  # its runtimes
        assert study.baseline_failure() is None
        asked = study.ask()
        assert asked is not None
        assert asked.forced
        study.tell(asked, failed(asked, "eager", "no memory was left", 1.0))
    assert study.baseline_failure() == "no memory was left"
    assert study.paid == 2
    study = opened(project, trials=2)
    assert study.baseline_failure() is None
    assert study.paid == 0
    asked = study.ask()
    assert asked is not None
    assert asked.point == study.experiment.space.neutral()
    study.tell(asked, answer(asked))
    assert study.baseline is not None
    assert len(study.records) == 3
    assert study.paid == 1


def test_limits_are_judged_by_the_baseline_of_the_neutral_runtime_once_it_is_there(
    project: Path,
) -> None:
    file = project / "experiment.toml"
    file.write_text(file.read_text().replace("seconds = 0.01", "seconds = 0.01\nwithin = 0.1"))
    study = opened(project)
    neutral, other = study.ask(), study.ask()
    assert neutral is not None
    assert other is not None
    slow = answer(other).measurements | {"latency": measured(9.0, "ms")}
    study.tell(other, dataclasses.replace(answer(other), measurements=slow))
    assert study.records[0].limits["latency.within"] <= 0
    study.tell(neutral, answer(neutral))
    expected = 9.0 - answer(neutral).measurements["latency"].value - 0.1
    for known in (study, opened(project)):
        found = next(r for r in known.records if r.trial == other.trial)
        assert found.limits["latency.within"] == pytest.approx(expected)


def copied(project: Path, name: str) -> Path:
    """Return another folder with the same task and experiment."""
    other = project / name
    other.mkdir()
    for file in ("task.py", "experiment.toml"):
        (other / file).write_text((project / file).read_text())
    return other


def test_two_fresh_studies_ask_alike(project: Path) -> None:
    first = asked_points(opened(project), 16)
    assert asked_points(opened(copied(project, "other")), 16) == first


def test_records_survive_a_restart_and_revised_ones_replace_them(project: Path) -> None:
    study = opened(project)
    asked_points(study, 4)
    before = study.records
    assert opened(project).records == before
    better = dataclasses.replace(before[1], note="confirmed")
    study.revise([better])
    again = dataclasses.replace(before[2], note="confirmed as well")
    opened(project).revise([again])
    assert opened(project).records[1:3] == [better, again]


def test_what_a_machine_lacked_is_asked_where_another_has_it(project: Path) -> None:
    study = opened(project)
    asked_points(study, 12)
    refused = [r.point for r in study.records if r.state == "infeasible"]
    assert refused
    again = opened(project, refuse=lambda point: None)
    assert not [r for r in again.records if r.state == "infeasible"]
    assert again.paid == 12
    while (asked := again.ask()) and asked.point not in refused:
        again.tell(asked, answer(asked))
    assert asked is not None
    again.tell(asked, answer(asked))
    back = opened(project)  # where the first machine is in charge again, measurements stay
    known = {str(r.point): r.state for r in back.records}
    assert known[str(asked.point)] == "complete"


def test_another_experiment_is_refused_in_the_same_folder(project: Path) -> None:
    asked_points(opened(project), 1)
    file = project / "experiment.toml"
    file.write_text(file.read_text().replace("0.25, 0.5]", "0.25, 0.75]"))
    with pytest.raises(BadRun, match="choose another folder with --out"):
        opened(project)


def test_an_abandoned_point_is_asked_again(project: Path) -> None:
    study = opened(project)
    asked = study.ask()
    assert asked is not None
    study.abandon(asked)
    again = study.ask()
    assert again is not None
    assert again.point == asked.point
    assert again.trial != asked.trial


def test_a_failed_trial_is_neither_asked_again_nor_on_the_front(project: Path) -> None:
    study = opened(project)
    asked_points(study, 2)
    asked = study.ask()
    assert asked is not None
    study.tell(asked, failed(asked, "null", "it crashed", 1.0))
    rest = asked_points(study, 20)
    assert asked.point not in rest
    assert all(record.trial != asked.trial for record in study.front())
