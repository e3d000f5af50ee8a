"""Run trials on the workers of a Ray cluster, through Ray Tune."""

from search.executors.ray.cluster import open_access_warning
from search.executors.ray.executor import RayTune

__all__ = [
    "RayTune",
    "open_access_warning",
]
