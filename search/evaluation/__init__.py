"""One point: built, exported and measured; and the front, measured again."""

from search.evaluation.context import TrialContext
from search.evaluation.trial import evaluate

__all__ = ["TrialContext", "confirm", "evaluate"]
