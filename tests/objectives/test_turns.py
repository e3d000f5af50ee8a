"""Bursts in turns: ratios hold whatever the machine's pace."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from objectives import Examples
from objectives.intervals import BATCHES, error_within, of_ratios, undisturbed_ratio
from objectives.metrics.latency import Latency
from objectives.turns import in_turns

EXAMPLES = Examples(inputs=torch.zeros(8, 2), targets=torch.zeros(8), score=lambda *_: 1.0)


class Clock:
    """A clock of a machine whose pace changes every half second, by up to a factor of two."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self._random = np.random.default_rng(seed)
        self._paces: dict[int, float] = {}

    def __call__(self) -> float:
        return self.now

    def run(self, seconds: float) -> float:
        pace = self._paces.setdefault(int(2 * self.now), float(self._random.uniform(1, 2)))
        taken = seconds * pace * float(self._random.lognormal(0, 0.02))
        self.now += taken
        return taken


class Imagined:
    """A program whose batch takes some seconds at the best pace of the machine."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds, self._clock = seconds, clock
        self.target = SimpleNamespace(batch_size=1, device="cpu")

    def feed(self, tensors: Any) -> Any:
        return tensors

    def seconds(self, batch: Any) -> float:
        del batch
        return self._clock.run(self._seconds)


def observed(monkeypatch: pytest.MonkeyPatch, seed: int, own: float, other: float) -> Any:
    """Return the turns of two programs on a machine of changing pace, and the seconds they took."""
    clock = Clock(seed)
    monkeypatch.setattr(time, "perf_counter", clock)
    programs: Any = {"own": Imagined(own, clock), "other": Imagined(other, clock)}
    return in_turns(programs, Latency(), EXAMPLES, 0.4), clock.now


def test_the_ratio_of_a_machine_of_changing_pace_is_the_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors, told = [], []
    for seed in range(20):
        turns, _ = observed(monkeypatch, seed, 1e-3, 2e-3)
        errors.append(undisturbed_ratio(turns["own"], turns["other"]) / 0.5 - 1)
        told.append(error_within(turns["own"], turns["other"]))
    assert np.median(np.abs(errors)) < 0.015
    assert np.max(np.abs(errors)) < 0.15  # where the pace itself changes by up to 2
    assert np.mean(np.abs(errors) < 2 * np.array(told) + 0.02) > 0.9


def test_both_programs_have_each_batch_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, seconds = observed(monkeypatch, 0, 1e-3, 2e-3)
    assert len(turns["own"]) == len(turns["other"]) >= BATCHES
    assert seconds == pytest.approx(0.4, abs=0.25)


def test_large_models_have_few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, _ = observed(monkeypatch, 0, 2.0, 2.0)
    assert [len(t) for t in turns.values()] == [BATCHES, BATCHES]


@pytest.mark.parametrize("spread", [0.002, 0.01, 0.02])
@pytest.mark.parametrize("processes", [1, 3, 6])
def test_few_intervals_of_equal_artifacts_exclude_one(spread: float, processes: int) -> None:
    random = np.random.default_rng(0)

    def excluded() -> bool:
        _, low, high = of_ratios(np.exp(random.normal(0, spread, processes)).tolist())
        return not low <= 1 <= high

    assert sum(excluded() for _ in range(400)) / 400 <= 0.05
