"""Ask the runtime of an artifact what it executes, in a process that times nothing else."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from objectives import Examples, Execution, Program, feeds, typical
from objectives.artifacts import encoding_of, load, placement_of
from objectives.host import exclusive
from search.measuring.subject import Subject, runtime_of

RUNS = (3, 30)
"""Fewest and most runs that are compared with the time of the operations."""
SECONDS = 0.1
"""Seconds after which no further of these runs begins."""


def asked(artifact: Path, subject: Subject, examples: Examples) -> dict[str, Any] | None:
    """Return what an artifact executes, the fields of `Execution` as plain data.

    Returns None if the runtime does not say, or if several devices share the artifact. Times are
    taken in the host's exclusive lane.
    """
    if placement_of(artifact).count > 1:
        return None
    runtime = runtime_of(artifact, subject.folder)
    with load(artifact, runtime, subject.task) as program, exclusive(subject.target.device):
        batches = feeds(program, examples)
        seconds = _seconds(program, batches)
        operations = program.operations(batches[0])
    if operations is None:
        return None
    return Execution.of(operations, encoding_of(artifact), seconds).to_json()


def _seconds(program: Program, batches: Sequence[Any]) -> float:
    """Return the seconds of a run; the first one may allocate and does not count."""
    program.seconds(batches[0])
    fewest, most = RUNS
    observations: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(observations) < most and (len(observations) < fewest or time.perf_counter() < end):
        observations.append(program.seconds(batches[len(observations) % len(batches)]))
    return typical(observations)
