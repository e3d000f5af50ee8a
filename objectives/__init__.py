"""What is measured, where and on what: objectives, runtimes and tasks."""

from objectives._objective import Direction, Measurement, Objective
from objectives._target import Target
from objectives.runtimes._runtime import Export, Program, Runtime, Signature

__all__ = [
    "Direction",
    "Export",
    "Measurement",
    "Objective",
    "Program",
    "Runtime",
    "Signature",
    "Target",
]
