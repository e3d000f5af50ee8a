"""Ask the runtime of an artifact what it executes, in a process that times nothing else."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from objectives import Examples, Execution, Program, feeds
from objectives.artifacts import encoding_of, load, placement_of
from objectives.host import exclusive
from search.measuring.subject import Subject, runtime_of

RUNS = 5
"""Runs whose median is compared with the time of the operations."""


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
    """Return the median seconds of a run; the first run may allocate and does not count."""
    program.seconds(batches[0])
    return statistics.median(program.seconds(batches[i % len(batches)]) for i in range(RUNS))
