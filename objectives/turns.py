"""Observe programs in turns, in bursts of milliseconds, so that their ratios hold at any pace.

The pace of a shared machine changes within seconds, by up to a factor of two. Bursts that follow
one another within milliseconds see the same pace.
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from objectives.examples import Examples
from objectives.intervals import LEVEL, error_of_median
from objectives.objective import TimedObjective, feeds
from objectives.runtime import Program

BURST = 0.005
"""Seconds of a burst of a program whose runs are short."""
RUNS = 5
"""Runs of a burst, unless they take longer than LONGEST."""
LONGEST = 0.05
"""Seconds after which a burst begins no further run."""
SETTLED = 0.02
"""Change from one burst to the next, as a share, below which a program is warm."""
WARM_UP = 0.1
"""Seconds after which a program counts as warm at the latest."""
PRECISION = 0.02
"""Half the width of a ratio's 95 % interval, as a share, at which bursts may end early."""
FEWEST, MOST = 7, 200
"""Turns that are taken at least, and at most."""
INDISPENSABLE, OVERTIME = 3, 4
"""Turns that are enough once OVERTIME times the seconds have passed, as for large models."""

Key = TypeVar("Key")


def in_turns(
    programs: Mapping[Key, Program],
    objective: TimedObjective,
    examples: Examples,
    seconds: float,
) -> dict[Key, list[float]]:
    """Return the median observation of each burst of each program, in the order of the turns.

    In a turn, each program has one burst; the next turn has the reverse order. Observations at one
    index belong to one turn. Turns end after `seconds`, or once the ratio of each program to the
    last one is known within PRECISION in this process.
    """
    batches = {key: feeds(program, examples) for key, program in programs.items()}
    lengths = {key: _warm_up(program, objective, batches[key]) for key, program in programs.items()}
    bursts: dict[Key, list[float]] = {key: [] for key in programs}
    order, start = list(programs), time.perf_counter()
    while _goes_on(list(bursts.values()), time.perf_counter() - start, seconds):
        for key in order:
            observations = objective.observe(programs[key], batches[key], lengths[key])
            bursts[key].append(statistics.median(observations))
        order.reverse()
    return bursts


def _warm_up(program: Program, objective: TimedObjective, batches: Sequence[Any]) -> float:
    """Run a program until its bursts no longer become faster; return the seconds of its bursts."""
    start = time.perf_counter()
    program.seconds(batches[0])  # the first run may allocate and choose kernels
    run = program.seconds(batches[-1])
    length = max(BURST, min(RUNS * run, LONGEST))
    last = math.inf
    while time.perf_counter() - start < WARM_UP:
        before = time.perf_counter()
        observations = objective.observe(program, batches, length)
        elapsed = (time.perf_counter() - before) / len(observations)
        if elapsed > last * (1 - SETTLED):
            break
        last = elapsed
    run = min(run, last)
    return max(BURST, min(RUNS * run, LONGEST))


def _goes_on(bursts: Sequence[Sequence[float]], elapsed: float, seconds: float) -> bool:
    """True if another turn is worth its time."""
    turns = len(bursts[0])
    if turns < INDISPENSABLE:
        return True
    if turns >= MOST or elapsed > OVERTIME * seconds:
        return False
    if turns < FEWEST:
        return True
    return elapsed < seconds and not (turns % FEWEST == 0 and _precise(bursts))


def _precise(bursts: Sequence[Sequence[float]]) -> bool:
    """True if the ratio of each program to the last one is known within PRECISION."""
    reference = np.asarray(bursts[-1])
    normal = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
    for series in bursts[:-1]:
        ratios = np.asarray(series) / reference
        error = error_of_median(ratios.tolist(), float(np.median(ratios)))
        if normal * error > PRECISION:
            return False
    return len(bursts) > 1
