"""Fronts, hypervolumes and picks, with numbers derived by hand."""

import itertools
import math

import pytest
from _examples import ACCURACY, AXES, LATENCY, SIZE, record
from hypothesis import given
from hypothesis import strategies as st

from objectives import Direction
from search.errors import BadRun, SearchError, UnknownName
from search.records import Axis, Facts, front, gain
from search.records.dominance import hypervolume
from search.records.front import (
    feasible,
    hypervolume_history,
    nearest,
    pick,
    picks,
)

TWO = (ACCURACY, LATENCY)
BASE = record(0, 0.9, 8.0, 1000)

values = st.tuples(
    st.sampled_from([0.80, 0.85, 0.88, 0.90]),
    st.sampled_from([1.0, 2.0, 4.0, 8.0, 16.0]),
    st.sampled_from([100, 500, 1000, 4000]),
)


def trials(n):
    return [t.trial for t in n]


def dominates(a, b, axes):
    pairs = [(axis.loss(a), axis.loss(b)) for axis in axes]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def test_front_drops_the_dominated_and_keeps_the_first_of_equals():
    records = [
        record(0, 0.90, 8.0),
        record(1, 0.88, 4.0),
        record(2, 0.87, 4.0),  # slower than none, less accurate than 1
        record(3, 0.88, 4.0),  # equals 1
        record(4, 0.80, 2.0),
        record(5, 0.90, 8.1),
    ]
    assert trials(front(records, TWO)) == [0, 1, 4]


def test_the_same_artifact_measured_twice_is_on_the_front_once():
    same = Facts(identity="a")
    records = [
        record(0, 0.90, 8.0),
        record(1, 0.88, 4.0, facts=same),
        record(2, 0.88, 3.9, facts=same),  # faster by chance
        record(3, 0.87, 3.8, facts=Facts(identity="b")),
    ]
    assert trials(front(records, TWO)) == [0, 1, 3]
    records[1] = record(1, 0.88, 4.0, facts=same, state="failed", reason="its file was lost")
    assert trials(front(records, TWO)) == [0, 2, 3]


def test_only_complete_and_satisfied_records_are_feasible():
    records = [
        record(0, 0.9, 8.0, limits={"accuracy.within": -0.05}),
        record(1, 0.8, 1.0, limits={"accuracy.within": 0.01}),
        record(2, latency=0.5, state="pruned", reason="dominated"),
    ]
    assert trials(feasible(records)) == [0]
    assert trials(front(records, TWO)) == [0]


def test_domination_needs_one_better_and_none_worse():
    assert trials(front([record(2, 0.9, 5.0), record(1, 0.9, 4.0)], TWO)) == [1]
    assert trials(front([record(2, 0.9, 4.0), record(1, 0.9, 4.0)], TWO)) == [2]
    assert trials(front([record(2, 0.9, 5.0), record(1, 0.8, 4.0)], TWO)) == [2, 1]


def test_a_complete_record_without_an_objective_is_told():
    with pytest.raises(BadRun, match="trial 7 is complete but has no latency"):
        front([record(7, 0.9)], TWO)


def test_hypervolume_by_hand():
    # Two boxes 3 x 1 and 1 x 3 under (4, 4) overlap in 1 x 1.
    assert hypervolume([(1, 3), (3, 1)], (4, 4)) == pytest.approx(3 + 3 - 1)
    assert hypervolume([(5, 0)], (4, 4)) == 0.0
    assert hypervolume([], (4, 4)) == 0.0


def test_hypervolume_history_by_hand():
    # Steps from the reference: the baseline has 1 x 1; four times as fast has 1 x 3;
    # 0.81 is a whole step below 0.9, at the reference, and adds nothing.
    records = [BASE, record(1, 0.9, 2.0), record(2, 0.81, 1.0), record(3, 0.855, 1.0)]
    history = hypervolume_history(records, TWO, BASE)
    assert history == pytest.approx([1.0, 3.0, 3.0, 3.0 + 0.5 * 1.0])


def test_hypervolume_history_starts_at_zero_without_feasible_records():
    failed = record(0, state="failed", reason="x")
    assert hypervolume_history([failed, BASE], TWO, BASE) == [0.0, 1.0]


def test_gain_is_above_one_for_better_in_both_directions():
    throughput = Axis("throughput", Direction.MAXIMIZE, "samples/s", positive=True)
    fast = record(1, 0.9, 2.0)
    assert gain(fast, LATENCY, BASE) == pytest.approx(4.0)
    made = {"throughput": BASE.measurements["latency"]}
    slow = record(2, measurements=made)
    quick = record(3, measurements={"throughput": fast.measurements["latency"]})
    assert gain(quick, throughput, slow) == pytest.approx(0.25)


MEMBERS = [record(1, 0.90, 8.0, 1000), record(2, 0.89, 2.0, 400), record(3, 0.80, 1.0, 500)]


@pytest.mark.parametrize(
    ("how", "trial"),
    [("fastest", 3), ("smallest", 2), ("most-accurate", 1), ("latency", 3), ("trial=1", 1)],
)
def test_picks(how, trial):
    assert pick(MEMBERS, how, AXES, BASE).trial == trial


def test_knee_by_hand():
    # Scaled to the extent of the front, distances to the ideal point are: 1: latency 1;
    # 2: accuracy 0.1, latency 1/3, hence 0.35; 3: accuracy 1.
    assert pick(MEMBERS, "knee", TWO, BASE).trial == 2


def test_noise_does_not_decide_the_knee():
    # The accuracies differ by 0.1 %, a hundredth of a step: the faster one is the knee.
    members = [record(1, 0.9, 8.0), record(2, 0.8991, 2.0)]
    assert pick(members, "knee", TWO, BASE).trial == 2


def test_unknown_pick_suggests():
    with pytest.raises(UnknownName, match="Did you mean 'fastest'"):
        pick(MEMBERS, "fastes", AXES, BASE)
    with pytest.raises(UnknownName, match="no trial on the front '9'"):
        pick(MEMBERS, "trial=9", AXES, BASE)
    with pytest.raises(UnknownName, match="no pick 'smallest'"):
        pick(MEMBERS, "smallest", TWO, BASE)


def test_words_follow_the_axes():
    assert set(picks(TWO)) == {"knee", "fastest", "most-accurate", "accuracy", "latency"}


def test_empty_front_says_why():
    with pytest.raises(SearchError, match="no complete trial satisfies every limit"):
        pick([], "knee", AXES, BASE)


def test_nearest_breaks_fewest_limits_then_least():
    def over(trial, **limits):
        return record(trial, 0.9, 1.0, 10, limits=limits)

    records = [over(1, a=0.1, b=5.0), over(2, a=0.04, b=-1.0), over(3, a=-1.0, b=3.0)]
    # 2 misses a by 0.04 of at most 0.1; 3 misses b by 3 of at most 5.
    assert nearest(records).trial == 2
    assert nearest([record(4, state="failed", reason="x")]) is None


def _records(rows):
    return [record(i, *row) for i, row in enumerate(rows)]


@given(st.lists(values, max_size=25), st.randoms())
def test_front_does_not_depend_on_the_order(rows, random):
    records = _records(rows)
    shuffled = random.sample(records, len(records))

    def seen(members):
        return sorted(tuple(axis.value(m) for axis in AXES) for m in members)

    assert seen(front(records, AXES)) == seen(front(shuffled, AXES))


@given(st.lists(values, max_size=25))
def test_no_member_is_dominated_and_all_others_are_covered(rows):
    records = _records(rows)
    members = front(records, AXES)
    assert not any(dominates(a, b, AXES) for a in records for b in members)
    for other in records:
        assert any(all(axis.loss(m) <= axis.loss(other) for axis in AXES) for m in members)


@given(st.lists(values, max_size=25))
def test_hypervolume_never_falls_and_is_finite(rows):
    history = hypervolume_history(_records(rows), AXES, BASE)
    assert len(history) == len(rows)
    assert all(a <= b for a, b in itertools.pairwise(history))
    assert all(math.isfinite(v) for v in history)


def test_size_axis_is_compared_in_the_logarithm():
    assert SIZE.steps(record(1, 0.9, 1.0, 250), BASE) == pytest.approx(-2.0)
    assert ACCURACY.steps(record(1, 0.855, 1.0, 250), BASE) == pytest.approx(0.5)
