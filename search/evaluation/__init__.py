"""Evaluation of one point into a record, confirmation of the front, and steps to its picks."""

from search.evaluation.cache import Cache, CachedMemory, digest_of_weights
from search.evaluation.context import TrialContext
from search.evaluation.estimate import smallest_differences
from search.evaluation.trial import Trial, evaluate
from search.evaluation.unchanged import export_unchanged

__all__ = [
    "Cache",
    "CachedMemory",
    "Trial",
    "TrialContext",
    "confirm",
    "digest_of_weights",
    "evaluate",
    "export_unchanged",
    "smallest_differences",
    "steps",
]
