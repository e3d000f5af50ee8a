"""The study of an experiment: records so far, and the next point to evaluate."""

from search.study.opening import opening
from search.study.queue import Queue
from search.study.study import PendingTrial, Study, sampler_of

__all__ = ["PendingTrial", "Queue", "Study", "opening", "sampler_of"]
