"""One point: built, exported and measured; and the front, measured again."""

from search.evaluation.confirm import PACE
from search.evaluation.trial import Bench, evaluate

__all__ = ["PACE", "Bench", "confirm", "evaluate", "trial"]
