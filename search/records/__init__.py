"""Records of trials, the Pareto front among them, and the rules that stop a trial early."""

from search.records.facts import Facts, Impossible
from search.records.front import (
    Axis,
    feasible,
    front,
    fronts,
    gain,
    hypervolume_history,
    nearest,
    pick,
    picks,
)
from search.records.record import Record, State
from search.records.stopping import PROBE, Ladder, Rung, bar_of, hopeless, rungs

__all__ = [
    "PROBE",
    "Axis",
    "Facts",
    "Impossible",
    "Ladder",
    "Record",
    "Rung",
    "State",
    "bar_of",
    "feasible",
    "front",
    "fronts",
    "gain",
    "hopeless",
    "hypervolume_history",
    "nearest",
    "pick",
    "picks",
    "rungs",
]
