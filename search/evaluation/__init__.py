"""Evaluation of one point into a record, and confirmation of the front."""

from search.evaluation.context import TrialContext
from search.evaluation.estimate import smallest_differences
from search.evaluation.trial import evaluate

__all__ = ["TrialContext", "confirm", "evaluate", "smallest_differences"]
