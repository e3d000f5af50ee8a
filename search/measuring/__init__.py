"""Artifacts measured in fresh processes, forked from a server."""

from search.measuring.server import Crashed, Lane, Measured
from search.measuring.subject import Subject, checked
from search.measuring.worker import PROCESSES

__all__ = ["PROCESSES", "Crashed", "Lane", "Measured", "Subject", "checked", "worker"]
