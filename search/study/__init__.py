"""What is known of an experiment, and which point is next."""

from search.study.front import (
    Axis,
    feasible,
    fronts,
    gain,
    hypervolume_history,
    nearest,
    pick,
    picks,
)
from search.study.known_impossible import fact
from search.study.opening import opening
from search.study.queue import Feed
from search.study.record import Record, State
from search.study.stopping import PROBE, Rung, rungs
from search.study.study import Asked, Study

__all__ = [
    "PROBE",
    "Asked",
    "Axis",
    "Feed",
    "Record",
    "Rung",
    "State",
    "Study",
    "fact",
    "feasible",
    "fronts",
    "gain",
    "hypervolume_history",
    "nearest",
    "opening",
    "pick",
    "picks",
    "rungs",
]
