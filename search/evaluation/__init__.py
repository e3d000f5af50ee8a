"""Evaluation of one point into a record, confirmation of the front, and steps to its picks."""

from search.evaluation.context import TrialContext
from search.evaluation.estimate import smallest_differences
from search.evaluation.trial import Trial, evaluate

__all__ = ["Trial", "TrialContext", "confirm", "evaluate", "smallest_differences", "steps"]
