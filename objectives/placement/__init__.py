"""Artifacts on several devices: replicas, tensor parallelism, pipeline parallelism."""

from objectives.placement.job import Job
from objectives.placement.program import PlacedProgram
from objectives.placement.ranks import DeviceFailed

__all__ = [
    "DeviceFailed",
    "Job",
    "PlacedProgram",
    "limits",
]
