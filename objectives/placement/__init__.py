"""An artifact on several devices: replicas, split tensors, stages."""

from objectives.placement.processes import DeviceFailed
from objectives.placement.program import Placed
from objectives.placement.wire import Job

__all__ = [
    "DeviceFailed",
    "Job",
    "Placed",
    "limits",
]
