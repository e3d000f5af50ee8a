"""Evaluation of one point into a record, and confirmation of the front."""

from search.evaluation.context import TrialContext
from search.evaluation.trial import evaluate

__all__ = ["TrialContext", "confirm", "evaluate"]
