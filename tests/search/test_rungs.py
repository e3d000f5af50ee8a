"""Rungs: who is stopped on the way, and that the best never are."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives import Measurement
from search.experiment.goals import goals_of
from search.records.ladder import FEWEST, Ladder
from search.records.record import Record
from search.records.stopping import Rung, rungs

GOALS = goals_of({"accuracy": {}, "latency": {}}, Path())
NAME = "50% of training"
VALUES = st.tuples(st.integers(0, 4), st.integers(1, 5))


def measurements(accuracy: float, latency: float, noise: float = 0.0) -> dict[str, Measurement]:
    values = {"accuracy": (accuracy, "score"), "latency": (latency, "ms")}
    return {
        name: Measurement(value=v, unit=u, low=v - noise, high=v + noise, samples=1)
        for name, (v, u) in values.items()
    }


def rung(accuracy: float, latency: float, noise: float = 0.0) -> Rung:
    return Rung(name=NAME, measurements=measurements(accuracy, latency, noise))


def finished(trial: int, accuracy: float, latency: float) -> Record:
    return Record(
        trial=trial,
        point={},
        runtime="null",
        state="complete",
        measurements=measurements(accuracy, latency),
    )


@pytest.fixture
def ladder() -> Ladder:
    return Ladder(GOALS)


def test_the_worse_half_stops_and_what_leads_never(ladder: Ladder) -> None:
    good = [rung(0.90, 1.0), rung(0.85, 0.8), rung(0.95, 1.2)]
    assert [ladder.judge(trial, seen) for trial, seen in enumerate(good)] == [None] * 3
    reason = ladder.judge(3, rung(0.80, 1.3))
    assert reason == "after 50% of training, 3 of 3 other trials are ahead of it"
    assert ladder.judge(4, rung(0.5, 0.1)) is None


def test_nothing_is_judged_before_enough_was_seen(ladder: Ladder) -> None:
    for trial in range(FEWEST - 1):
        assert ladder.judge(trial, rung(0.9 - 0.1 * trial, 1.0 + trial)) is None


@given(st.lists(VALUES, min_size=FEWEST, max_size=9))
def test_what_nothing_dominates_goes_on_and_what_all_dominate_ends(
    points: list[tuple[int, int]],
) -> None:
    *others, last = points
    ladder = Ladder(GOALS)
    for trial, (accuracy, latency) in enumerate(others):
        ladder.judge(trial, rung(accuracy, latency))
    reason = ladder.judge(len(others), rung(*last))
    ahead = [(a, t) for a, t in others if a >= last[0] and t <= last[1] and (a, t) != last]
    assert ahead or reason is None
    assert reason or len(ahead) < len(others)


@given(st.lists(VALUES, min_size=FEWEST, max_size=5), VALUES)
def test_the_order_of_the_others_does_not_matter(
    points: list[tuple[int, int]], last: tuple[int, int]
) -> None:
    reasons = set()
    for order in itertools.permutations(range(len(points))):
        ladder = Ladder(GOALS)
        for trial in order:
            ladder.judge(trial, rung(*points[trial]))
        reasons.add(ladder.judge(len(points), rung(*last)))
    assert len(reasons) == 1


def test_a_lead_within_noise_is_none(ladder: Ladder) -> None:
    for trial in range(FEWEST):
        ladder.judge(trial, rung(0.90, 1.0, noise=0.2))
    assert ladder.judge(FEWEST, rung(0.85, 1.1, noise=0.2)) is None


@pytest.mark.parametrize(("gains", "stops"), [((0.0, 0.0, 0.3, 0.28), False), ((0.01,) * 4, True)])
def test_a_trial_goes_on_if_others_gained_enough_to_bring_it_ahead(
    ladder: Ladder, gains: tuple[float, ...], stops: bool
) -> None:
    """Two of four others are ahead; whether it may pass the finished ones is what decides."""
    starts = [(0.80, 1.0), (0.78, 0.9), (0.60, 3.0), (0.61, 3.1)]
    for trial, (accuracy, latency) in enumerate(starts):
        ladder.judge(trial, rung(accuracy, latency))
    pairs = zip(starts, gains, strict=True)
    done = [finished(trial, a + gain, t) for trial, ((a, t), gain) in enumerate(pairs)]
    done.append(finished(9, 0.85, 0.9))
    reason = ladder.judge(5, rung(0.70, 1.5), done)
    assert (reason is not None) is stops
    if reason:
        assert "would not reach trial" in reason


def test_short_trainings_have_no_rungs() -> None:
    assert rungs(40) == {}
    assert rungs(200) == {50: "25% of training", 100: "50% of training"}
