"""Records of trials, the Pareto front among them, and the rules that stop a trial early."""

from search.records.axis import Axis, gain
from search.records.comparison import (
    NORMAL,
    Difference,
    difference,
    dominates,
    order,
    smallest_difference,
    told_difference,
)
from search.records.facts import Facts, Impossible, Step
from search.records.front import (
    feasible,
    fronts,
    hypervolume_history,
    nearest,
    pick,
    picks,
)
from search.records.ladder import Ladder
from search.records.membership import Membership, front, membership
from search.records.record import Record, State
from search.records.stopping import PROBE, Rung, bar_of, hopeless, rungs

__all__ = [
    "NORMAL",
    "PROBE",
    "Axis",
    "Difference",
    "Facts",
    "Impossible",
    "Ladder",
    "Membership",
    "Record",
    "Rung",
    "State",
    "Step",
    "bar_of",
    "difference",
    "dominates",
    "feasible",
    "front",
    "fronts",
    "gain",
    "hopeless",
    "hypervolume_history",
    "membership",
    "nearest",
    "order",
    "pick",
    "picks",
    "rungs",
    "smallest_difference",
    "told_difference",
]
