"""An artifact on several devices: replicas, split tensors, stages."""

from objectives.placement.job import Job
from objectives.placement.processes import DeviceFailed
from objectives.placement.program import Placed

__all__ = [
    "DeviceFailed",
    "Job",
    "Placed",
    "limits",
]
