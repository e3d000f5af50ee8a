"""Trials on the workers of a Ray cluster, through Ray Tune."""

from search.executors.ray.cluster import unguarded
from search.executors.ray.executor import RayTune

__all__ = [
    "RayTune",
    "unguarded",
]
