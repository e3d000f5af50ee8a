"""Who is on a front when measurements are noisy: simulated searches whose truth is known."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _examples import ACCURACY, AXES, LATENCY, record

from objectives import Measurement
from objectives.intervals import of_ratios, of_score
from search.records import Record, front, membership
from search.records.comparison import (
    difference,
    dominates,
    kernel,
    order,
    smallest_difference,
)

TWO = (ACCURACY, LATENCY)
SAMPLES = 1000
PROCESSES, SPREAD = 3, 0.01


def scored(right: torch.Tensor) -> Measurement:
    """Return the accuracy that the objective would measure from a mask of right answers."""
    shares = right.float()
    value = float(shares.mean())
    low, high, resamples = of_score(lambda i: float(shares[i].mean()), len(right), value)
    return Measurement(
        value=value, unit="score", low=low, high=high, samples=len(right), resamples=resamples
    )


def timed(truth: float, random: np.random.Generator) -> Measurement:
    """Return a time as processes would measure it, each with its own level."""
    ratios = truth * np.exp(random.normal(0, SPREAD, PROCESSES))
    value, low, high = of_ratios(ratios.tolist())
    return Measurement(value=value, unit="ms", low=low, high=high, samples=30)


class Truth:
    """Models of one task: samples have a difficulty, and what two models get wrong overlaps."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.splits = {s: self.random.random(SAMPLES) for s in ("validation", "test")}

    def right(self, accuracy: float, split: str = "validation") -> torch.Tensor:
        """Return which samples a model of this accuracy gets right, on a split it has not seen."""
        difficulty = self.splits[split] + self.random.normal(0, 0.05, SAMPLES)
        # The threshold is that of the whole population of samples, not of this split.
        population = self.random.random(100_000) + self.random.normal(0, 0.05, 100_000)
        return torch.tensor(difficulty < np.quantile(population, accuracy))

    def record(self, trial: int, accuracy: float, latency: float) -> Record:
        measured = {
            "accuracy": scored(self.right(accuracy)),
            "latency": timed(latency, self.random),
        }
        return dataclasses.replace(record(trial, 0.9, 1.0), measurements=measured)


FRONT = [(0.92, 1.0), (0.88, 0.7), (0.85, 0.5), (0.80, 0.35), (0.72, 0.25)]
"""Accuracies and latencies of true members, further apart than noise."""
DOMINATED = [(0.87, 1.0), (0.86, 0.9), (0.82, 0.7), (0.82, 0.65), (0.76, 0.5), (0.70, 0.4)]


def test_false_members_are_rare_and_true_ones_are_kept() -> None:
    false = lost = members = 0
    for seed in range(30):
        truth = Truth(seed)
        points = [*FRONT, *DOMINATED]
        numbers = truth.random.permutation(len(points))
        records = [truth.record(i, *points[n]) for i, n in enumerate(numbers)]
        told = membership(records, TWO)
        found = {points[numbers[t]] for t in told.members if t not in told.doubtful}
        members += len(found)
        false += len(found - set(FRONT))
        lost += len(set(FRONT) - found)
    assert false <= 0.05 * members
    assert lost <= 0.05 * 30 * len(FRONT)


def test_copies_of_one_artifact_do_not_fill_a_front() -> None:
    """Equal models measured eight times: by values alone, several would be on the front."""
    sizes = []
    for seed in range(30):
        truth = Truth(seed)
        records = [truth.record(i, 0.88, 0.7) for i in range(8)]
        sizes.append(len(front(records, TWO)))
    assert np.mean(np.array(sizes) > 1) <= 0.1
    assert np.mean(sizes) < 1.15


def test_choosing_on_validation_does_not_flatter_the_test_score() -> None:
    """Winner's curse: the best of 20 equal models looks better than it is, but not on test."""
    on_validation, on_test = [], []
    for seed in range(40):
        truth = Truth(seed)
        scores = [float(truth.right(0.88).float().mean()) for _ in range(20)]
        on_validation.append(max(scores) - 0.88)
        on_test.append(float(truth.right(0.88, "test").float().mean()) - 0.88)
    deviation = np.std(on_test) / np.sqrt(len(on_test))
    assert abs(np.mean(on_test)) < 3 * deviation
    assert np.mean(on_validation) > np.mean(on_test)


@pytest.mark.parametrize(("more", "less", "differ"), [(5, 0, 0), (6, 0, 1), (9, 2, 0), (14, 3, 1)])
def test_few_disagreements_are_told_apart_as_the_exact_test_does(
    more: int, less: int, differ: int
) -> None:
    """McNemar's exact test at 5 %: 5 of 5 disagreements are chance, 6 of 6 are not."""
    own = torch.ones(SAMPLES, dtype=torch.bool)
    other = own.clone()
    other[:more], own[more : more + less] = False, False
    assert order(scored(own), scored(other)) == differ


def test_equal_predictions_differ_by_nothing() -> None:
    right = torch.arange(SAMPLES) < 900
    found = difference(scored(right), scored(right))
    assert found is not None
    assert found.value == 0
    assert found.is_noise


def test_the_smallest_difference_is_about_the_one_that_is_told() -> None:
    """It is told before any trial, from fewer samples than the split has."""
    wrong = 100
    own = torch.arange(SAMPLES) >= wrong
    other = torch.arange(SAMPLES) < SAMPLES - wrong // 2
    other[: wrong // 2] = False  # disagree on as many samples as one gets wrong
    found = difference(scored(own), scored(other))
    assert found is not None
    told = smallest_difference(scored(own[::4]), SAMPLES)
    assert told == pytest.approx((found.high - found.low) / 2, rel=0.25)
    perfect = scored(torch.ones(360, dtype=torch.bool))
    assert 6 / 360 > smallest_difference(perfect, 360) > 2 / 360  # never less than a few samples


def test_scores_of_other_samples_are_compared_by_their_intervals() -> None:
    small = scored(torch.arange(100) < 90)
    assert difference(small, scored(torch.arange(SAMPLES) < 900)) is None
    assert order(small, scored(torch.arange(SAMPLES) < 910)) == 0


def test_of_a_chain_of_ties_every_other_one_stays() -> None:
    def beats(own: int, other: int) -> bool:
        return other - own == 1

    assert kernel([0, 1, 2, 3, 4], beats) == [0, 2, 4]
    assert kernel([0, 1, 2], lambda own, other: (other - own) % 3 == 1) == [0, 1, 2]


def noisy(trial: int, latency: float, half: float, **point: Any) -> Record:
    plain = record(trial, 0.9, latency, 1000)
    times = Measurement(
        value=latency, unit="ms", low=latency - half, high=latency + half, samples=30
    )
    return dataclasses.replace(
        plain,
        measurements=plain.measurements | {"latency": times},
        point=plain.point | point,
    )


def test_the_simplest_of_a_tie_is_the_member_and_the_others_are_told() -> None:
    records = [
        noisy(0, 8.0, 0.1),
        noisy(1, 3.9, 0.2, **{"prune.channels.ratio": 0.1, "precision.compute.dtype": "bfloat16"}),
        noisy(2, 4.0, 0.2, **{"precision.compute.dtype": "bfloat16"}),
        noisy(3, 2.0, 0.1, **{"prune.channels.ratio": 0.5}),
        noisy(4, 4.5, 0.1, **{"prune.channels.ratio": 0.2}),
    ]
    assert membership(records[:3], AXES).ties == {2: (1,)}
    assert [r.trial for r in front(records[:3], AXES)] == [2]
    assert [r.trial for r in front(records, AXES)] == [3]
    assert dominates(records[3], records[4], AXES)


def test_a_better_score_within_noise_is_kept_as_a_doubt_and_a_better_time_is_not() -> None:
    def with_score(plain: Record, right: int) -> Record:
        accuracy = scored(torch.arange(SAMPLES) < right)
        return dataclasses.replace(plain, measurements=plain.measurements | {"accuracy": accuracy})

    faster, better = with_score(noisy(0, 2.0, 0.1), 900), with_score(noisy(1, 4.0, 0.1), 903)
    told = membership([faster, better], AXES)
    assert told.members == (0, 1)
    assert told.doubtful == {1: 0}
    much_better = with_score(noisy(1, 4.0, 0.1), 930)
    assert membership([faster, much_better], AXES).doubtful == {}
    lucky = with_score(noisy(1, 1.98, 0.1), 870)  # worse beyond noise, faster within noise
    assert membership([faster, lucky], AXES).members == (0,)


def spaced(values: Sequence[float]) -> list[Record]:
    return [noisy(i, value, 0.03 * value) for i, value in enumerate(values)]


def test_what_is_faster_within_noise_beats_nothing() -> None:
    slow, fast = spaced([1.0, 0.99])
    assert not dominates(fast, slow, AXES)
    assert [r.trial for r in front([slow, fast], AXES)] == [1]  # equally simple: the faster


def test_resamples_are_stored_and_read_but_not_told(tmp_path: Path) -> None:
    kept = dataclasses.replace(
        record(3, 0.9, 1.0), measurements={"accuracy": scored(torch.arange(SAMPLES) < 900)}
    )
    again = Record.from_json(kept.to_json())
    assert again == kept
    assert len(again.measurements["accuracy"].resamples) == 200
