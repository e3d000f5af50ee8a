"""An artifact on several devices: replicas, split tensors, stages."""

from objectives.placement.job import Job
from objectives.placement.program import Placed
from objectives.placement.ranks import DeviceFailed

__all__ = [
    "DeviceFailed",
    "Job",
    "Placed",
    "limits",
]
