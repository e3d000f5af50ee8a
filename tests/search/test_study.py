"""The study: what is asked, in which order, and that nothing is asked twice or lost."""

import dataclasses
from pathlib import Path

import pytest
from _answers import answer, no_eager_integers, opened

from search.errors import BadRun
from search.study import Study
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


@pytest.mark.slow
def test_dead_dimensions_cost_no_trial(project: Path) -> None:
    for point in asked_points(opened(project), 30):
        if point["distill.logits.steps"] == 0:
            assert point["distill.logits.temperature"] == 1.0


@pytest.mark.slow
def test_a_space_that_is_used_up_ends_the_search(project: Path) -> None:
    points = asked_points(opened(project, trials=500), 500)
    # 3 ratios x 3 trainings (none, T1, T4), in null with 4 pairs of bits, in eager with 2.
    assert len(points) == 3 * 3 * (4 + 2)


@pytest.mark.slow
def test_the_same_seed_asks_the_same_points_also_after_a_restart(
    project: Path, tmp_path: Path
) -> None:
    whole = asked_points(opened(project), 16)
    again = project / "again"
    again.mkdir()
    for name in ("task.py", "experiment.toml"):
        (again / name).write_text((project / name).read_text())
    pieces = asked_points(opened(again), 9)
    study = opened(again)
    asked = study.ask()  # killed while this one runs
    assert asked is not None
    study = opened(again)
    assert study.close_stale() == 1
    pieces += asked_points(study, 7)
    assert {str(p) for p in pieces[:9]} == {str(p) for p in whole[:9]}
    assert pieces[9] == asked.point
    assert len({str(p) for p in pieces}) == 16


def test_two_fresh_studies_ask_alike(project: Path) -> None:
    first = asked_points(opened(project), 16)
    other = project / "other"
    other.mkdir()
    for name in ("task.py", "experiment.toml"):
        (other / name).write_text((project / name).read_text())
    assert asked_points(opened(other), 16) == first


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
    failed = dataclasses.replace(
        answer(asked), state="failed", reason="it crashed", measurements={}
    )
    study.tell(asked, failed)
    rest = asked_points(study, 20)
    assert asked.point not in rest
    assert all(record.trial != asked.trial for record in study.front())
