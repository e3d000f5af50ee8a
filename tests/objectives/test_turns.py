"""Bursts in turns: ratios hold whatever the machine's pace, and end when they are precise."""

import itertools
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from objectives import Examples, turns
from objectives.intervals import of_ratios
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


def ratios(
    monkeypatch: pytest.MonkeyPatch, seed: int, own: float = 1e-3, other: float = 2e-3
) -> tuple[list[float], float]:
    """Return the ratios of the turns of two programs, and the seconds that they took."""
    clock = Clock(seed)
    monkeypatch.setattr(time, "perf_counter", clock)
    programs: Any = {"own": Imagined(own, clock), "other": Imagined(other, clock)}
    examples = EXAMPLES
    bursts = in_turns(programs, Latency(), examples, 0.4)
    assert len(bursts["own"]) == len(bursts["other"]) >= turns.FEWEST
    return [a / b for a, b in zip(bursts["own"], bursts["other"], strict=True)], clock.now


def test_the_ratio_of_a_machine_of_changing_pace_is_the_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = [float(np.median(ratios(monkeypatch, seed)[0])) for seed in range(20)]
    assert values == pytest.approx([0.5] * 20, rel=0.02)


def test_turns_end_early_when_the_ratio_is_precise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(ratios(monkeypatch, seed)[1] for seed in range(5)) < 0.4


def test_large_models_have_few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(0)
    monkeypatch.setattr(time, "perf_counter", clock)
    programs: Any = {n: Imagined(2.0, clock) for n in ("own", "other")}
    examples = EXAMPLES
    bursts = in_turns(programs, Latency(), examples, 0.2)
    assert [len(b) for b in bursts.values()] == [3, 3]


@pytest.mark.parametrize("spread", [0.002, 0.01, 0.03])
def test_few_intervals_of_equal_artifacts_exclude_one(spread: float) -> None:
    random = np.random.default_rng(0)

    def excluded() -> bool:
        series = [
            list(np.exp(random.normal(level, 0.03, 25))) for level in random.normal(0, spread, 3)
        ]
        _, low, high = of_ratios(series)
        return not low <= 1 <= high

    assert sum(excluded() for _ in itertools.repeat(None, 400)) / 400 <= 0.05
