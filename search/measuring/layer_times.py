"""Time single layers, each exported as an artifact, in turns in one process."""

import contextlib
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from objectives import Program, error_of_median
from objectives.artifacts import load
from objectives.host import exclusive
from search.measuring.subject import Subject, runtime_of
from spaces import Alone

ROUNDS = (40, 120)
"""Fewest and most rounds in which every layer is run once."""
SECONDS = 4.0
"""Seconds after which no further round starts, once the fewest are done."""
WARM = 3
"""First rounds that are not counted, as they allocate memory."""
BEST = 4
"""Rounds in a group of which the fastest counts: on a busy machine most runs may be disturbed."""


def timed(
    artifacts: Sequence[Path], layers: Sequence[Alone], subject: Subject
) -> list[dict[str, float]]:
    """Return the milliseconds of each artifact with a 95 % interval, in the host's exclusive lane.

    The value is the median, over groups of BEST rounds, of the fastest run in the group: a
    disturbance only adds time, and here the differences between bit widths count. (On a busy
    machine the plain medians of one layer ranged from 1.2 to 3.9 ms without order, while this
    statistic gave 0.21 with kernels and 0.49 without, twice in a row.) Layers take turns run by
    run, in another order every round, so that a disturbance affects all alike and each layer finds
    the caches full of other layers' weights, as in a model.
    """
    with contextlib.ExitStack() as stack:
        programs = []
        for artifact, layer in zip(artifacts, layers, strict=True):
            runtime = runtime_of(artifact, subject.folder)
            program = stack.enter_context(load(artifact, runtime, layer))
            programs.append((program, program.feed([layer.inputs()])))
        stack.enter_context(exclusive(subject.target.device))
        observations = _observed(programs)
    return [_summary(times) for times in observations]


def _observed(programs: Sequence[tuple[Program, Any]]) -> list[list[float]]:
    """Return the milliseconds of each program's runs, shape (programs, rounds)."""
    observations: list[list[float]] = [[] for _ in programs]
    order, shuffle = list(range(len(programs))), random.Random(0)
    least, most = ROUNDS
    end = time.perf_counter() + SECONDS
    for done in range(WARM + most):
        if done >= WARM + least and time.perf_counter() > end:
            break
        shuffle.shuffle(order)
        for index in order:
            program, feed = programs[index]
            observations[index].append(1e3 * program.seconds(feed))
    return [times[WARM:] for times in observations]


def _summary(times: Sequence[float]) -> dict[str, float]:
    """Return the median of the fastest runs with its 95 % interval, in milliseconds."""
    starts = range(0, len(times) - BEST + 1, BEST)
    best = [min(times[start : start + BEST]) for start in starts]
    value = float(np.median(best))
    # Differences between processes do not matter: all layers were timed in one process.
    half_width = 1.96 * error_of_median(best, value) * value
    return {"value": value, "low": value - half_width, "high": value + half_width}
