"""What may change: techniques with their dimensions, and the space they span."""

from spaces.catalogue import entry_of
from spaces.dimension import Choice, Dimension, Interval, Value, axis, choice
from spaces.messages import first_line, said, sentence, untraced
from spaces.outputs import Outputs
from spaces.plan import Encoding, Placement, Plan, Precision, Recovery
from spaces.space import Point, Slot, Space, drawn, rounded, widened
from spaces.task import Inputs, Split, Targets, Task, Unsuited
from spaces.technique import Infeasible, Left, Scope, Stage, Technique

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
    "Unsuited",
    "Value",
    "axis",
    "choice",
    "drawn",
    "entry_of",
    "first_line",
    "rounded",
    "said",
    "sentence",
    "untraced",
    "widened",
]
