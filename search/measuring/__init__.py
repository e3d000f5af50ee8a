"""Artifacts measured in fresh processes, forked from a server."""

from search.measuring.layer_times import Alone
from search.measuring.server import Crashed, Found, Lane
from search.measuring.subject import Subject, checked

__all__ = [
    "Alone",
    "Crashed",
    "Found",
    "Lane",
    "Subject",
    "checked",
    "worker",
]
