"""The search space: techniques with their dimensions, points, plans, and the user's task."""

from spaces.catalogue import entry_of
from spaces.dimension import Choice, Dimension, Entries, Interval, Value, axis, choice
from spaces.memory import FORGETFUL, Forgetful, Memory
from spaces.messages import first_line, said, sentence, untraced
from spaces.outputs import Outputs
from spaces.plan import Encoding, Placement, Plan, Precision, Recovery
from spaces.space import Point, Slot, Space, drawn, rounded, widened
from spaces.task import Inputs, Metric, Split, Targets, Task, Unsuited
from spaces.technique import Infeasible, Left, Scope, Stage, Technique
from spaces.tools import Alone, Prepared, Time, Tools, Untimed
from spaces.user_code import Unreachable, address_of, load_file, resolve
from spaces.wire import decode, encode

__all__ = [
    "FORGETFUL",
    "Alone",
    "Choice",
    "Dimension",
    "Encoding",
    "Entries",
    "Forgetful",
    "Infeasible",
    "Inputs",
    "Interval",
    "Left",
    "Memory",
    "Metric",
    "Outputs",
    "Placement",
    "Plan",
    "Point",
    "Precision",
    "Prepared",
    "Recovery",
    "Scope",
    "Slot",
    "Space",
    "Split",
    "Stage",
    "Targets",
    "Task",
    "Technique",
    "Time",
    "Tools",
    "Unreachable",
    "Unsuited",
    "Untimed",
    "Value",
    "address_of",
    "axis",
    "choice",
    "decode",
    "drawn",
    "encode",
    "entry_of",
    "first_line",
    "load_file",
    "processes",
    "resolve",
    "rounded",
    "said",
    "sentence",
    "untraced",
    "widened",
]
