"""The study of an experiment: records so far, and the next point to evaluate."""

from search.study.known import Refuse
from search.study.opening import baselines, opening, reference_of
from search.study.queue import Queue
from search.study.sampling import sampler_of
from search.study.start import Front, Start
from search.study.study import PendingTrial, Study

__all__ = [
    "Front",
    "PendingTrial",
    "Queue",
    "Refuse",
    "Start",
    "Study",
    "baselines",
    "opening",
    "reference_of",
    "sampler_of",
]
