"""What percentiles of latency promise: MLPerf's number of runs and bound, relative to a pace."""

from pathlib import Path

import numpy as np
import pytest
from _runtimes import Images, Tiny, ship
from scipy.stats import binom

from objectives import Target, in_turns, read
from objectives.metrics.latency import Latency
from objectives.percentiles import TooFewRuns, paced, percentile_of, runs_needed, slower, told
from objectives.runtimes.null import Null

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("percentile", "runs"), [(90, 64), (95, 130), (97, 219), (99, 662)])
def test_runs_needed_are_those_of_mlperf(percentile: float, runs: int) -> None:
    """MLPerf's rules list 64 queries for the 90th percentile and 662 for the 99th."""
    assert runs_needed(percentile) == runs
    assert slower(runs - 1, percentile) == 0


@pytest.mark.parametrize("percentile", [50, 90, 99])
@pytest.mark.parametrize("runs", [700, 5000])
def test_as_many_runs_are_slower_as_the_binomial_tail_allows(percentile: float, runs: int) -> None:
    count = slower(runs, percentile)
    share = 1 - percentile / 100
    assert binom.cdf(count, runs, share) <= 0.01 < binom.cdf(count + 1, runs, share)


def test_bounds_hold_for_99_in_100() -> None:
    truth, above, below = -np.log(0.1), 0, 0  # 90th percentile of an exponential distribution
    for _ in range(500):
        value, low, high = percentile_of(RNG.exponential(size=200), 90)
        assert low <= value <= high
        above += truth > high
        below += truth < low
    assert max(above, below) <= 15  # 5 expected; more than 15 in 1 of 10,000 tests


def test_too_few_runs_are_refused_with_the_number_needed() -> None:
    with pytest.raises(TooFewRuns, match="99th percentile needs 662 runs, there are 661"):
        percentile_of(np.ones(661), 99)


@pytest.mark.parametrize("percentile", [-1.0, 30.0, 100.0])
def test_other_percentiles_are_refused(percentile: float) -> None:
    with pytest.raises(ValueError, match="percentile must be 0"):
        Latency(percentile=percentile)


def turns(best: float, tail: float, count: int = 400) -> list[list[float]]:
    """Return turns of five runs, of which every tenth run takes `tail` times as long."""
    runs = np.full(5 * count, best)
    runs[::10] *= tail
    return runs.reshape(count, 5).tolist()


def scaled(turns: list[list[float]], paces: np.ndarray) -> list[list[float]]:
    return [[pace * run for run in turn] for turn, pace in zip(turns, paces, strict=True)]


def test_a_percentile_is_relative_to_the_pace_of_each_turn() -> None:
    paces = RNG.choice([1.0, 1.8], size=400)  # a machine that changes its pace between turns
    own, reference = scaled(turns(2.0, 3.0), paces), scaled(turns(1.0, 1.0), paces)
    fast, slow = (Latency(percentile=p) for p in (50, 95))
    assert fast.relative([own], [reference], 1.0).value == pytest.approx(2.0)
    tail = slow.relative([own], [reference], 1.0)
    assert tail.value == pytest.approx(6.0)
    assert tail.samples == 2000
    assert sorted(paced(own, reference))[-1] == pytest.approx(6.0)


def test_the_reference_has_its_own_value() -> None:
    reference = turns(1.0, 4.0)
    latency = Latency(percentile=99)
    assert latency.relative([reference], [reference], 4.2).value == pytest.approx(4.2)


def test_a_percentile_of_several_processes_covers_their_spread() -> None:
    series, others = [turns(1.0, 1.0), turns(1.2, 1.0)], [turns(1.0, 1.0)] * 2
    measurement = Latency(percentile=90).relative(series, others, 1.0)
    assert measurement.low < 1.0
    assert measurement.high > 1.2


def test_without_a_percentile_the_time_is_undisturbed() -> None:
    assert Latency().summary([turns(2.0, 3.0)]).value == pytest.approx(2.0)
    assert Latency(percentile=95).summary([turns(2.0, 3.0)]).value == pytest.approx(6.0)


def test_a_report_is_told_percentiles_that_have_enough_runs() -> None:
    own, reference = turns(2.0, 3.0), turns(1.0, 1.0)
    told_ms = told([own], [reference], 10.0)
    assert told_ms == pytest.approx({"50": 20.0, "90": told_ms["90"], "99": 60.0})
    assert set(told([own[:20]], (), 1.0)) == {"50", "90"}
    assert Latency().percentiles([own], (), None)["50"] == pytest.approx(2.0)


def test_turns_go_on_until_there_are_enough_runs(tmp_path: Path) -> None:
    latency, examples = Latency(percentile=99), read(Tiny(Images), "validation")
    with ship(Null(), Tiny(Images), tmp_path / "a", target=Target(batch_size=2)) as program:
        observed = in_turns({"a": program, "b": program}, latency, examples, 0.0)
        assert all(sum(map(len, turns)) >= 662 for turns in observed.values())


def test_too_slow_a_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectives.turns.PATIENCE", 0.0)
    latency, examples = Latency(percentile=99.9), read(Tiny(Images), "validation")
    with ship(Null(), Tiny(Images), tmp_path / "a", target=Target(batch_size=2)) as program:
        monkeypatch.setattr(latency.__class__, "observe", lambda *_: [1.0])
        observed = in_turns({"a": program}, latency, examples, 0.0)
    with pytest.raises(TooFewRuns, match=r"needs 6636 runs, there are 4"):
        latency.summary([observed["a"]])
