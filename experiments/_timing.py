"""Interleaved timing: every candidate in every round, so that a busy machine slows them alike."""

import dataclasses
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
WARM = 3
LEVEL = 0.95
DRAWS = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rounds:
    """Median milliseconds of one batch in each round, by candidate."""

    medians: dict[str, list[float]]

    def latency(self, name: str) -> tuple[float, float, float]:
        """Return the median over the rounds, in ms, with its 95 % bootstrap interval."""
        return _interval(np.array(self.medians[name])[None], lambda m: float(m[0]))

    def ratio(self, slow: str, fast: str) -> tuple[float, float, float]:
        """Return how many times faster `fast` is than `slow`, with its 95 % interval.

        Rounds are drawn for both at once: what slowed one round slowed both.
        """
        pair = np.array([self.medians[slow], self.medians[fast]])
        return _interval(pair, lambda m: float(m[0] / m[1]))


def _interval(rounds: Array, figure: Callable[[Array], float]) -> tuple[float, float, float]:
    random_state = np.random.default_rng(0)
    count = rounds.shape[1]
    draws = random_state.integers(count, size=(DRAWS, count))
    values = [figure(np.median(rounds[:, row], axis=1)) for row in draws]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return figure(np.median(rounds, axis=1)), float(low), float(high)


def interleave(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, seconds: float, title: str
) -> Rounds:
    """Call every candidate for `seconds` in each of `rounds` rounds, each in a new order."""
    medians: dict[str, list[float]] = {name: [] for name in calls}
    order, draw = list(calls), random.Random(0)
    for index in range(rounds):
        draw.shuffle(order)
        for name in order:
            medians[name].append(1e3 * float(np.median(_times(calls[name], seconds))))
        print(f"\r{title}: round {index + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return Rounds(medians=medians)


def _times(call: Callable[[], object], seconds: float) -> Sequence[float]:
    """Return the seconds of each call within `seconds`, at least five, after a few unmeasured."""
    for _ in range(WARM):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times
