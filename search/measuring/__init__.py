"""Measurement of artifacts in fresh processes, forked from a server."""

from search.measuring.reference import Reference
from search.measuring.server import ArtifactMeasurements, Crashed, MeasurementServer
from search.measuring.subject import Subject, checked, runtime_of
from search.measuring.worker import PRECISION, PROBING

__all__ = [
    "PRECISION",
    "PROBING",
    "ArtifactMeasurements",
    "Crashed",
    "MeasurementServer",
    "Reference",
    "Subject",
    "checked",
    "runtime_of",
    "worker",
]
