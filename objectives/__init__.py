"""Tasks, runtimes, artifacts and objectives: everything that measures a candidate."""

from objectives.examples import READ_BATCH, Examples, cached, calibration, fingerprint, read
from objectives.execution import Execution, Kind, Operation, Part, typical
from objectives.fed_metrics import lower_is_better, value_of
from objectives.intervals import LEVEL, Turns, error_of_median, wilson
from objectives.objective import (
    Direction,
    Measurement,
    Objective,
    Ratio,
    TimedObjective,
    feeds,
)
from objectives.runtime import Export, Program, Runtime, Signature
from objectives.target import Target
from objectives.turns import in_turns
from objectives.work import Work

__all__ = [
    "LEVEL",
    "READ_BATCH",
    "Direction",
    "Examples",
    "Execution",
    "Export",
    "Kind",
    "Measurement",
    "Objective",
    "Operation",
    "Part",
    "Program",
    "Ratio",
    "Runtime",
    "Signature",
    "Target",
    "TimedObjective",
    "Turns",
    "Work",
    "cached",
    "calibration",
    "error_of_median",
    "feeds",
    "fingerprint",
    "in_turns",
    "lower_is_better",
    "read",
    "typical",
    "value_of",
    "wilson",
]
