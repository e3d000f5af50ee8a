"""What is known of an experiment, and which point is next."""

from search.study.opening import opening
from search.study.queue import Queue
from search.study.study import Asked, Study, sampler_of

__all__ = ["Asked", "Queue", "Study", "opening", "sampler_of"]
