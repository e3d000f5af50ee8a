"""What may change: techniques with their dimensions, and the space they span."""

from spaces._dimension import Choice, Dimension, Interval, Value, axis, choice
from spaces._outputs import Outputs
from spaces._plan import Encoding, Placement, Plan, Precision, Recovery
from spaces._space import Point, Slot, Space
from spaces._task import Inputs, Split, Targets, Task
from spaces._technique import Infeasible, Left, Scope, Stage, Technique

__all__ = [
    "Choice",
    "Dimension",
    "Encoding",
    "Infeasible",
    "Inputs",
    "Interval",
    "Left",
    "Outputs",
    "Placement",
    "Plan",
    "Point",
    "Precision",
    "Recovery",
    "Scope",
    "Slot",
    "Space",
    "Split",
    "Stage",
    "Targets",
    "Task",
    "Technique",
    "Value",
    "axis",
    "choice",
]
