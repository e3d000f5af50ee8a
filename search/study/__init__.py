"""The study of an experiment: records so far, and the next point to evaluate."""

from search.study.opening import baselines, opening, reference_of
from search.study.queue import Queue
from search.study.sampling import sampler_of
from search.study.study import PendingTrial, Refuse, Study

__all__ = [
    "PendingTrial",
    "Queue",
    "Refuse",
    "Study",
    "baselines",
    "opening",
    "reference_of",
    "sampler_of",
]
