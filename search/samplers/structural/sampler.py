"""Sampler: initial design, then the largest expected gain of hypervolume, or TPE."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from search.samplers import History, Sampler
from search.samplers.structural import candidates
from search.samplers.structural.design import apart, design
from search.samplers.structural.parameters import simplified
from search.samplers.structural.problem import Problem
from search.samplers.structural.scaling import Encoder
from search.samplers.tpe import Tpe
from spaces import Point

JUDGED = 20
"""Number of records from which on predictions are judged."""
EXPLAINED = 0.5
"""Smallest R2 of predictions left one out; below it, another sampler proposes."""
SIMPLIFIED = 256
"""Number of the most promising points that are brought to their simplest form at a time."""
FALLBACK = Tpe(multivariate=False, startup_trials=10)
"""The sampler that proposes where the models predict poorly."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Structural(Sampler):
    """Gaussian processes on what is known of points before they are evaluated.

    The next point has the largest expected improvement of the hypervolume. Where the models
    predict poorly, `tpe` proposes instead.
    """

    startup: int = 8
    """Number of complete trials before which corners and distant points are proposed."""
    neighbours: int = 1_000
    """Largest number of candidates that differ from a point of the front by one step; others are
    drawn at random."""
    cost_exponent: float = 0.5
    """Power of the predicted seconds by which an improvement is divided; 0 ignores them."""

    def __post_init__(self) -> None:
        if self.startup < 1:
            raise ValueError(f"startup must be at least 1, got {self.startup}")
        if self.neighbours < 0:
            raise ValueError(f"neighbours must be at least 0, got {self.neighbours}")
        if self.cost_exponent < 0:
            raise ValueError(f"cost_exponent must be at least 0, got {self.cost_exponent}")

    def propose(self, history: History, seed: int) -> Point | None:
        """Return the acceptable point with the largest expected gain; None if none is left."""
        problem, draw = self._problem(history), np.random.default_rng(seed)
        if problem is None:
            known = [o.point for o in history.observations]
            return design(history.space, Encoder.of(history), known, accepting(history), draw)
        if _gate(problem):
            return FALLBACK.propose(history, seed)
        pool = candidates.candidates(history.space, problem.front(), self.neighbours, draw)
        return self._best(problem, simplified(history.space, pool))

    def choose(self, history: History, points: Sequence[Point]) -> Point | None:
        """Return the acceptable one of `points` with the largest expected gain.

        Before there are `startup` complete trials it is the one farthest from all known points.
        """
        if problem := self._problem(history):
            return self._best(problem, points)
        known = [o.point for o in history.observations]
        order = np.argsort(-apart(Encoder.of(history), points, known), kind="stable")
        accept = accepting(history)
        fresh = (points[i] for i in order if points[i] not in known)
        return next((point for point in fresh if accept(point)), None)

    def remark(self, history: History) -> str | None:
        """Return the reason in one sentence if TPE proposes instead; None if the models do."""
        problem = self._problem(history)
        return _gate(problem) if problem else None

    def _problem(self, history: History) -> Problem | None:
        complete = sum(o.state == "complete" for o in history.observations)
        return Problem.of(history) if complete >= self.startup else None

    def _best(self, problem: Problem, points: Sequence[Point]) -> Point | None:
        """Return the best point by its simplest form, which is found for the most promising."""
        history, accept = problem.history, accepting(problem.history)
        seen = {candidates.key(o.point) for o in history.observations}
        order = np.argsort(-problem.scores(points, self.cost_exponent), kind="stable")
        for start in range(0, len(order), SIMPLIFIED):
            simple = [history.space.canonical(points[i]) for i in order[start : start + SIMPLIFIED]]
            fresh = list({k: p for p in simple if (k := candidates.key(p)) not in seen}.values())
            if not fresh:
                continue
            ranks = np.argsort(-problem.scores(fresh, self.cost_exponent), kind="stable")
            for place in (int(rank) for rank in ranks):
                if accept(fresh[place]):
                    return fresh[place]
        return None


def accepting(history: History) -> Callable[[Point], bool]:
    """Return the history's rule of acceptable points, or one that accepts all."""
    return history.accept or (lambda point: True)


def _gate(problem: Problem) -> str | None:
    for number, model in enumerate(problem.models):
        count = len(model.process.y_train_)
        explained = model.explained()
        if count >= JUDGED and explained < EXPLAINED:
            return (
                f"the model of objective {number + 1} explains {max(explained, 0.0):.0%} of the "
                f"differences between {count} trials, less than {EXPLAINED:.0%}: TPE proposes"
            )
    return None
