"""An experiment and its task, checked before the first trial."""

from search.checks.check import informed
from search.checks.count_points import require_executable
from search.checks.rehearsal import rehearsed

__all__ = [
    "check",
    "informed",
    "rehearsed",
    "require_executable",
]
