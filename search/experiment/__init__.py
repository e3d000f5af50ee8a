"""Experiments: task, target, space, objectives and limits, and which points can be executed."""

from search.experiment.experiment import BUDGET, Experiment, NamedEntry
from search.experiment.feasibility import kinds_of, refusal, refusal_here
from search.experiment.fields import fields_of, instantiate
from search.experiment.from_task import default_for, default_for_model
from search.experiment.goals import Goal, timed
from search.experiment.reading import duration

__all__ = [
    "BUDGET",
    "Experiment",
    "Goal",
    "NamedEntry",
    "default_for",
    "default_for_model",
    "duration",
    "fields_of",
    "instantiate",
    "kinds_of",
    "refusal",
    "refusal_here",
    "timed",
]
