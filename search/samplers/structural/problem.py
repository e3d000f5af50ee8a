"""Problem of a proposal: a model of each objective, the front, limits, failures and times."""

import dataclasses
from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from search.samplers import History, Observation
from search.samplers.structural.chances import success
from search.samplers.structural.improvement import Outlook, improvement
from search.samplers.structural.model import Model
from search.samplers.structural.scaling import Encoder, Group
from spaces import Point

Matrix = NDArray[np.float64]

FEWEST = 3
"""Smallest number of records that a model is fitted to."""
TIMED = 8
"""Smallest number of timed trials from which durations are predicted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """The history of a search in the encoding of its features."""

    history: History
    encoder: Encoder
    features: Matrix
    """Scaled features of all observations, in their order."""
    models: tuple[Model, ...]
    """One for each objective."""

    @classmethod
    def of(cls, history: History) -> "Problem | None":
        """Fit the models; None if an objective has too few records."""
        encoder = Encoder.of(history)
        features = encoder([o.point for o in history.observations])
        models = []
        for objective in range(history.objectives):
            model = _model(history, objective, encoder.groups, features)
            if model is None:
                return None
            models.append(model)
        return cls(history=history, encoder=encoder, features=features, models=tuple(models))

    def scores(self, points: Sequence[Point], exponent: float) -> Matrix:
        """Return the expected gain of each point, by its predicted seconds to the `exponent`."""
        features = self.encoder(points)
        pending = self.features[[o.state == "running" for o in self.history.observations]]
        models = [m.believing(pending) if len(pending) else m for m in self.models]
        outlooks = self._outlooks(models, features)
        front, reference = self._front(pending)
        gains = improvement(outlooks, front, reference)
        gains = gains * self._allowed(outlooks) * self._chances(features)
        return gains / self._seconds(features) ** exponent if exponent else gains

    def front(self) -> list[Point]:
        """Return the points of trials that keep all limits and that none of them dominates."""
        losses, kept = self._complete()
        places = [i for i in np.flatnonzero(kept)]
        if not places:
            return []
        mask = moocore.is_nondominated(losses[places])
        complete = [o for o in self.history.observations if o.state == "complete"]
        return [complete[i].point for i, best in zip(places, mask, strict=True) if best]

    def _complete(self) -> tuple[Matrix, NDArray[np.bool_]]:
        """Return quantities of complete trials, trials x objectives, and which keep all limits."""
        complete = [o for o in self.history.observations if o.state == "complete"]
        losses = np.array([o.losses for o in complete], dtype=float)
        limits = [np.inf if b is None else b for b in self.history.bounds or ()]
        kept = np.array([all(v <= 0.0 for v in o.violations) for o in complete], dtype=bool)
        if limits:
            kept &= (losses <= np.array(limits)).all(axis=1)
        return self._quantities(losses), kept

    def _quantities(self, losses: Matrix) -> Matrix:
        """Return what improvement is measured in, for losses as trials x objectives."""
        columns = zip(self.models, self._factors(), losses.T, strict=True)
        return np.stack([_quantity(m, factor, column) for m, factor, column in columns], axis=1)

    def _factors(self) -> tuple[bool, ...]:
        """Return for each objective whether improvement is measured in its logarithm."""
        asked = self.history.factors or (False,) * len(self.models)
        pairs = zip(asked, self.models, strict=True)
        return tuple(factor and model.transform.kind == "log" for factor, model in pairs)

    def _outlooks(self, models: Sequence[Model], features: Matrix) -> list[Outlook]:
        ideals = self._known(self.history.ideal, -np.inf)
        return [
            _outlook(model, factor, ideal, features)
            for model, factor, ideal in zip(models, self._factors(), ideals, strict=True)
        ]

    def _known(self, losses: Sequence[float | None] | None, otherwise: float) -> Matrix:
        """Return losses as quantities; those that are unknown are `otherwise`."""
        given = losses or (None,) * len(self.models)
        filled = np.array([[1.0 if loss is None else loss for loss in given]])
        missing = [loss is None for loss in given]
        return np.where(missing, otherwise, self._quantities(filled)[0])

    def _front(self, pending: Matrix) -> tuple[Matrix, Matrix]:
        """Return the front with what pending trials are believed to bring, and the reference.

        It is the loss from which on a point is of no use, at most the worst seen.
        """
        rows, kept = self._complete()
        reference = np.minimum(rows.max(axis=0), self._known(self.history.reference, np.inf))
        found = rows[kept]
        if len(pending):
            believed = [o.middle() for o in self._outlooks(self.models, pending)]
            found = np.vstack([found, np.stack(believed, axis=1)])
        found = found[(found < reference).all(axis=1)]
        front = found[moocore.is_nondominated(found)] if len(found) else found
        return front, reference

    def _allowed(self, outlooks: Sequence[Outlook]) -> Matrix:
        """Return the probability that all losses are within their bounds."""
        chances = np.ones(len(outlooks[0].mean))
        levels = self._known(self.history.bounds, np.inf)
        for outlook, level in zip(outlooks, levels.tolist(), strict=True):
            if level < np.inf:
                chances *= outlook.below(np.array([level]))[:, 0]
        return chances

    def _chances(self, features: Matrix) -> Matrix:
        """Return the probability that a trial neither fails nor violates what is no bound."""
        ended = [i for i, o in enumerate(self.history.observations) if o.state != "running"]
        seen = [self.history.observations[i] for i in ended]
        bounded = self.history.bounds is not None
        return success(features, self.features[ended], [_succeeded(o, bounded) for o in seen])

    def _seconds(self, features: Matrix) -> Matrix:
        """Return the predicted seconds of a trial at each point; 1 where nothing was timed."""
        seconds = [o.seconds for o in self.history.observations]
        timed = [i for i, s in enumerate(seconds) if s is not None and s > 0.0]
        if len(timed) < TIMED:
            return np.ones(len(features))
        durations = np.array([seconds[i] for i in timed], dtype=float)
        groups = self.encoder.groups
        model = Model.fit(self.features[timed], durations, np.zeros(len(timed)), groups)
        return np.asarray(np.exp(model.predict(features)[0]))


def _model(
    history: History, objective: int, groups: Sequence[Group], features: Matrix
) -> Model | None:
    trained = history.trained is None or history.trained[objective]
    used = [
        dataclasses.replace(g, minor=g.minor or (trained and g.execution))
        for g in groups
        if (trained or not g.training) and (not trained or not g.timing)
    ]
    measured = [_measured(o, objective) for o in history.observations]
    places = [i for i, found in enumerate(measured) if found is not None]
    if len(places) < FEWEST or not any(o.state == "complete" for o in history.observations):
        return None
    values, deviations = np.array([measured[i] for i in places], dtype=float).T
    ideal = history.ideal[objective] if history.ideal else None
    return Model.fit(features[places], values, deviations, used, ideal)


def _measured(observation: Observation, objective: int) -> tuple[float, float] | None:
    """Return the loss of one objective and its deviation, 0 if unknown; None if not measured."""
    losses = observation.losses or observation.partial
    loss = losses[objective] if losses else None
    deviation = observation.deviations[objective] if observation.deviations else None
    return None if loss is None else (loss, deviation or 0.0)


def _succeeded(observation: Observation, bounded: bool) -> bool:
    """True unless a trial failed or violated a constraint; bounds have models of their own."""
    violations = observation.violations[-1:] if bounded else observation.violations
    return observation.state != "failed" and all(v <= 0.0 for v in violations)


def _outlook(model: Model, factor: bool, ideal: float, features: Matrix) -> Outlook:
    mean, deviation = model.predict(features)
    log = model.transform.kind == "log" and not factor
    return Outlook(mean=mean, deviation=deviation, log=log, ideal=ideal)


def _quantity(model: Model, factor: bool, losses: Matrix) -> Matrix:
    quantity = model.transform.quantity(losses)
    return np.asarray(np.log(quantity)) if factor else quantity
