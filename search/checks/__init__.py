"""Checks of an experiment and its task before the first trial."""

from search.checks.check import inspect_model
from search.checks.count_points import require_executable
from search.checks.rehearsal import rehearse

__all__ = [
    "check",
    "inspect_model",
    "rehearse",
    "require_executable",
]
