"""How many processes time artifacts in turns: as planned, or more where times are still coarse."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.experiment import Experiment
from search.measuring import MeasurementServer

PLANNED, MOST = 2, 6


class Scripted(MeasurementServer):
    """A server whose processes see the first artifact at 1 ms and the others as told."""

    def __init__(self, slowness: Iterator[float]) -> None:
        self._slowness = slowness

    def _call(self, **request: Any) -> dict[str, Any]:
        slow = next(self._slowness)
        first, *others = request["artifacts"]
        turns = {first: [[1e-3] * 4] * 8} | {name: [[slow * 1e-3] * 4] * 8 for name in others}
        times = {name: {"latency": seconds} for name, seconds in turns.items()}
        return {"planned_processes": PLANNED, "times": times}


@pytest.mark.parametrize(
    ("slowness", "processes"),
    [((2.0, 2.0, 2.0), PLANNED), ((2.0, 5.0, 1.0, 4.0, 2.0, 3.0), MOST)],
    ids=["agree", "differ"],
)
def test_processes_go_on_while_they_differ_widely(
    project: Path, slowness: tuple[float, ...], processes: int
) -> None:
    experiment = Experiment.load(project / "experiment.toml")
    server = Scripted(itertools.chain(slowness))
    measured, count = server.interleave(
        experiment,
        {Path("a"): None, Path("b"): None},
        values={"latency": 1.0},
        data=Path("data"),
    )
    assert count == processes
    assert min(slowness) <= measured["b"]["latency"].value <= max(slowness)
