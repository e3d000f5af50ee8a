"""Measurement of artifacts in fresh processes, forked from a server."""

from search.measuring.server import ArtifactMeasurements, Crashed, MeasurementServer
from search.measuring.subject import Subject, checked
from search.measuring.worker import PROCESSES

__all__ = [
    "PROCESSES",
    "ArtifactMeasurements",
    "Crashed",
    "MeasurementServer",
    "Subject",
    "checked",
    "worker",
]
