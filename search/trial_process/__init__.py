"""Run a trial in a fresh process, killed with its children at its time limit."""

from search.trial_process.child import PATIENCE, Child, Failed, Killed, child, job
from search.trial_process.start import FORKABLE, context_for

__all__ = ["FORKABLE", "PATIENCE", "Child", "Failed", "Killed", "child", "context_for", "job"]
