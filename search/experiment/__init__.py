"""What is asked: experiments, their objectives and limits, what can be executed."""

from search.experiment.experiment import Experiment, NamedEntry
from search.experiment.feasibility import kinds_of, refusal, refusal_here
from search.experiment.fields import built, fields_of
from search.experiment.from_task import default_for
from search.experiment.goals import Goal, timed
from search.experiment.reading import duration

__all__ = [
    "Experiment",
    "Goal",
    "NamedEntry",
    "built",
    "default_for",
    "duration",
    "fields_of",
    "kinds_of",
    "refusal",
    "refusal_here",
    "timed",
]
