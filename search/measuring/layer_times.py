"""Layers alone, each in an artifact of its own, timed in turns in one fresh process."""

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
"""Least and most rounds in which every layer is run once."""
SECONDS = 4.0
"""Time after which no round is begun once the least are done."""
WARM = 3
"""Rounds that are not counted: the first runs allocate memory."""
BEST = 4
"""Rounds of which the fastest counts: beside busy neighbours most runs may be disturbed."""


def timed(
    artifacts: Sequence[Path], layers: Sequence[Alone], subject: Subject
) -> list[dict[str, float]]:
    """Return the milliseconds of each artifact with their interval, the lane held meanwhile.

    The median, over groups of BEST rounds, of the fastest run: what disturbs a run adds time,
    and here differences between widths count. (On a busy machine the medians of a layer were 1.2
    to 3.9 ms in no order; so measured, 0.21 with kernels and 0.49 without, twice in a row.)
    Layers take turns run by run, in another order every round: a disturbance meets all alike, and
    a layer finds the caches as it does in a model, full of other layers' weights.
    """
    with contextlib.ExitStack() as stack:
        programs = []
        for artifact, layer in zip(artifacts, layers, strict=True):
            runtime = runtime_of(artifact, subject.folder)
            program = stack.enter_context(load(artifact, runtime, layer))
            programs.append((program, program.feed([layer.inputs()])))
        stack.enter_context(exclusive(subject.target.device))
        seen = _observed(programs)
    return [_summary(times) for times in seen]


def _observed(programs: Sequence[tuple[Program, Any]]) -> list[list[float]]:
    """Return the milliseconds of each program's runs."""
    seen: list[list[float]] = [[] for _ in programs]
    order, shuffle = list(range(len(programs))), random.Random(0)
    least, most = ROUNDS
    end = time.perf_counter() + SECONDS
    for done in range(WARM + most):
        if done >= WARM + least and time.perf_counter() > end:
            break
        shuffle.shuffle(order)
        for index in order:
            program, feed = programs[index]
            seen[index].append(1e3 * program.seconds(feed))
    return [times[WARM:] for times in seen]


def _summary(times: Sequence[float]) -> dict[str, float]:
    starts = range(0, len(times) - BEST + 1, BEST)
    best = [min(times[start : start + BEST]) for start in starts]
    value = float(np.median(best))
    # all in one process and in turns: what differs between processes does not count here
    reach = 1.96 * error_of_median(best, value) * value
    return {"value": value, "low": value - reach, "high": value + reach}
