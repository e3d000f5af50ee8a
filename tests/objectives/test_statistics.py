"""Intervals of what is timed: other processes, at another moment, are within them."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from objectives.intervals import Turns, error_within, of_processes, of_score, undisturbed, wilson
from objectives.metrics.latency import Latency

Random = np.random.Generator


def process(random: Random, *, apart: float, disturbed: float, count: int = 120) -> list[float]:
    """Return times of one process: its own level, noise that lasts, now and then a slow stretch."""
    noise = np.zeros(count)
    for i in range(1, count):
        noise[i] = 0.9 * noise[i - 1] + 0.004 * random.normal()
    noise += apart * random.normal()
    if random.random() < disturbed:
        start, end = np.sort(random.integers(0, count + 1, 2))
        noise[start:end] += random.uniform(0.1, 0.5)
    return [float(t) for t in 2.0 * np.exp(noise)]


def measured(random: Random, processes: int, **how: float) -> tuple[list[float], list[float]]:
    """Return the values of processes, and their errors within."""
    series = [[[time] for time in process(random, **how)] for _ in range(processes)]
    return [undisturbed(turns) for turns in series], [error_within(turns) for turns in series]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("apart", "disturbed"), [(0.005, 0.0), (0.01, 0.1), (0.015, 0.05)])
def test_measuring_again_gives_a_value_within_the_interval(
    processes: int, apart: float, disturbed: float
) -> None:
    random = np.random.default_rng(3)
    inside, widths = [], []
    for _ in range(200):
        value, low, high = of_processes(*measured(random, processes, apart=apart, disturbed=0.0))
        again, _, _ = of_processes(*measured(random, processes, apart=apart, disturbed=disturbed))
        inside.append(low <= again <= high)
        widths.append((high - low) / value)
    assert np.mean(inside) >= 0.9
    assert np.median(widths) < (0.25, 0.12, 0.08)[processes - 1]  # and says something


def test_processes_that_agree_are_no_proof_but_those_that_differ_are_believed() -> None:
    alike, apart = (2.0, 2.0, 2.0), (2.0, 2.0, 2.6)
    _, low, high = of_processes(alike)
    assert (high - 2) / 2 == pytest.approx((2 - low) / 2, rel=0.1)
    assert 0.01 < (high - low) / 2 < 0.1
    value, same, higher = of_processes(apart)
    assert value == 2.0
    assert higher > 2.6
    assert same == pytest.approx(low)  # what disturbs makes slower, never faster


def test_what_varies_within_one_process_widens_its_interval() -> None:
    steady, restless = [[2.0]] * 100, [[2.0]] * 50 + [[3.0]] * 50
    (_, low, high), (_, lower, higher) = (
        of_processes([2.0], [error_within(turns)]) for turns in (steady, restless)
    )
    assert lower < low
    assert higher > high


def test_a_value_is_that_of_the_moments_without_disturbance() -> None:
    random = np.random.default_rng(0)
    quiet = [[2.0 * random.lognormal(0, 0.01)] for _ in range(400)]
    disturbed = [[t * (1.8 if random.random() < 0.7 else 1.0)] for (t,) in quiet]
    assert undisturbed(disturbed) == pytest.approx(undisturbed(quiet), rel=0.02)


def test_no_single_batch_decides_a_value() -> None:
    """One input of four that is fast, as one that exits early, is one of four."""
    turns: Turns = [[1.0] * 5 if t % 4 == 0 else [3.0] * 5 for t in range(40)]
    assert undisturbed(turns) == pytest.approx(3.0)


@pytest.mark.parametrize("levels", [[2.0], [2.0, 8.0, 9.0]])
def test_every_process_counts_once_and_all_samples_are_told(levels: Sequence[float]) -> None:
    series = [[[level] * 3] * (4 * (i + 1)) for i, level in enumerate(levels)]
    found = Latency().summary(series)
    assert found.value == np.median(levels)
    assert found.samples == sum(len(turn) for turns in series for turn in turns)
    assert found.low < found.value < found.high


def test_a_time_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="must be above 0 ms"):
        Latency().summary([[[1.0, 1.0]], [[0.0, 0.0]]])


@pytest.mark.parametrize("raises", [True, False])
def test_resamples_that_lack_a_rare_class_do_not_take_a_score_its_interval(raises: bool) -> None:
    labels = torch.arange(100) < 3

    def recall(index: torch.Tensor) -> float:
        found = labels[index]
        if raises and not found.any():
            raise ValueError("only one class is present")
        return float((found & (index != 0)).sum() / found.sum())

    low, high, _ = of_score(recall, 100, 2 / 3)
    assert 0 <= low < 2 / 3 < high <= 1


def test_a_score_that_most_resamples_lack_has_no_interval() -> None:
    def needy(index: torch.Tensor) -> float:
        return 1.0 if {0, 1, 2} <= set(index.tolist()) else float("nan")

    with pytest.raises(ValueError, match="give the split more samples"):
        of_score(needy, 99, 1.0)


def test_wilson_by_hand() -> None:
    """Of 10 trials none or all: 0 to z^2 / (10 + z^2), and the mirror image, with z = 1.96."""
    z2 = 1.959964**2
    assert wilson(0.0, 10) == pytest.approx((0, z2 / (10 + z2)), abs=1e-6)
    assert wilson(1.0, 10) == pytest.approx((10 / (10 + z2), 1), abs=1e-6)


def test_a_score_on_which_all_resamples_agree_still_has_an_interval() -> None:
    assert of_score(lambda index: 1.0, 10, 1.0)[:2] == wilson(1.0, 10)
    assert of_score(lambda index: 7.0, 10, 7.0)[:2] == (7.0, 7.0)  # no share: none is known
