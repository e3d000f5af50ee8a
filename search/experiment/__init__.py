"""What is asked: experiments, their objectives and limits, what can be executed."""

from search.experiment.experiment import Experiment, duration
from search.experiment.feasibility import kinds_of, refusal, refusal_here
from search.experiment.from_task import default_for
from search.experiment.goals import Goal

__all__ = [
    "Experiment",
    "Goal",
    "default_for",
    "duration",
    "kinds_of",
    "refusal",
    "refusal_here",
]
