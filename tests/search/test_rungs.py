"""Rungs: who is stopped on the way, and that the best never are."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from objectives import Measurement
from search.experiment.experiment import Experiment
from search.records.dominance import front_numbers
from search.records.stopping import Ladder, Rung, rungs


def rung(accuracy: float, latency: float, size: float = 100.0) -> Rung:
    values = {"accuracy": (accuracy, "score"), "latency": (latency, "ms"), "size": (size, "bytes")}
    found = {
        name: Measurement(value=v, unit=u, low=v, high=v, samples=1)
        for name, (v, u) in values.items()
    }
    return Rung(name="50% of training", measurements=found)


def test_the_worse_half_stops_and_its_front_never(project: Path) -> None:
    ladder = Ladder(Experiment.load(project / "experiment.toml").objectives)
    good = [rung(0.90, 1.0), rung(0.85, 0.8), rung(0.95, 1.2)]
    assert [ladder.judge(trial, seen) for trial, seen in enumerate(good)] == [None] * 3
    reason = ladder.judge(3, rung(0.80, 1.3))
    assert reason == "after 50% of training, 3 of 4 trials are on better fronts"
    assert ladder.judge(4, rung(0.5, 0.1)) is None


def test_nothing_is_judged_before_enough_was_seen(project: Path) -> None:
    ladder = Ladder(Experiment.load(project / "experiment.toml").objectives)
    assert ladder.judge(0, rung(0.9, 1.0)) is None
    assert ladder.judge(1, rung(0.1, 9.0)) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_each_front_is_dominated_by_the_one_before_only(points: list[tuple[int, int]]) -> None:
    numbers = front_numbers(points)
    for number, mine in zip(numbers, points, strict=True):
        better = [
            other
            for other, point in zip(numbers, points, strict=True)
            if point != mine and all(x <= y for x, y in zip(point, mine, strict=True))
        ]
        assert number == max(better, default=-1) + 1


def test_short_trainings_have_no_rungs() -> None:
    assert rungs(40) == {}
    assert rungs(200) == {50: "25% of training", 100: "50% of training"}
