"""Observe programs in turns, in bursts of a millisecond, so that their ratios hold at any pace.

The pace of a shared machine changes within seconds, by up to a factor of two. Bursts that follow
one another within milliseconds see the same pace.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from objectives.examples import Examples
from objectives.intervals import BATCHES, Turns
from objectives.objective import TimedObjective, feeds
from objectives.runtime import Program

BURST = 0.001
"""Seconds of a burst of a program whose runs are short."""
RUNS = 5
"""Runs of a burst, unless they take longer than LONGEST."""
LONGEST = 0.05
"""Seconds after which a burst begins no further run."""
SETTLED, STEADY = 0.02, 3
"""A program is warm after STEADY bursts without a run that is faster than all before by SETTLED."""
WARM_UP = 0.1
"""Seconds after which a program counts as warm at the latest."""
INDISPENSABLE = BATCHES
"""Turns that are taken at least: one with each batch."""

PATIENCE = 60.0
"""Seconds after which an objective gets no more observations than it has."""

Key = TypeVar("Key")


def in_turns(
    programs: Mapping[Key, Program],
    objective: TimedObjective,
    examples: Examples,
    seconds: float,
) -> Mapping[Key, Turns]:
    """Return the observations of each turn of each program.

    In a turn, each program has one burst with the same batch; the next turn has the next batch and
    the reverse order. Turns end after `seconds` seconds, or after INDISPENSABLE turns if these take
    longer. They go on, for PATIENCE seconds at most, until each program has the observations that
    the objective needs.
    """
    batches = {key: feeds(program, examples) for key, program in programs.items()}
    lengths = {key: _warm_up(program, objective, batches[key]) for key, program in programs.items()}
    turns: dict[Key, list[list[float]]] = {key: [] for key in programs}
    order, start, count = list(programs), time.perf_counter(), 0
    while (
        count < INDISPENSABLE
        or (elapsed := time.perf_counter() - start) < seconds
        or (elapsed < PATIENCE and _fewest(turns.values()) < objective.least_runs)
    ):
        for key in order:
            batch = batches[key][count % BATCHES]
            turns[key].append(objective.observe(programs[key], [batch], lengths[key]))
        order.reverse()
        count += 1
    return turns


def _fewest(programs: Iterable[Turns]) -> int:
    """Return the number of observations of the program that has the fewest."""
    return min(sum(map(len, turns)) for turns in programs)


def _warm_up(program: Program, objective: TimedObjective, batches: Sequence[Any]) -> float:
    """Run a program until its runs no longer become faster; return the seconds of its bursts."""
    start = time.perf_counter()
    program.seconds(batches[0])  # the first run may allocate and choose kernels
    fastest = program.seconds(batches[-1])
    steady = 0
    while steady < STEADY and time.perf_counter() - start < WARM_UP:
        before = time.perf_counter()
        observations = objective.observe(program, batches, _length(fastest))
        run = (time.perf_counter() - before) / len(observations)
        steady = 0 if run < fastest * (1 - SETTLED) else steady + 1
        fastest = min(fastest, run)
    return _length(fastest)


def _length(run: float) -> float:
    """Return the seconds of a burst of a program whose run takes `run` seconds."""
    return max(BURST, min(RUNS * run, LONGEST))
