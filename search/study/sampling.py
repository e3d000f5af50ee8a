"""Ask the sampler of an experiment for points, with all that the records tell of them."""

import dataclasses
from collections.abc import Callable

from objectives import Measurement
from search import catalogue
from search.experiment import Experiment, fields_of, instantiate
from search.records import NORMAL, Axis, Record, difference
from search.samplers import History, Observation, Sampler
from search.study.features import Describer, Known
from spaces import Point


class Sampling:
    """The sampler of an experiment, with what it needs to know of the points of its space."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._sampler = sampler_of(experiment)
        self._describer = Describer(experiment.space)
        self._axes = [Axis.of(g.name, g.objective) for g in experiment.objectives]
        self._told: History | None = None
        self._trained = tuple(g.objective.trained for g in experiment.objectives)

    @property
    def selective(self) -> bool:
        """False if every proposal must be evaluated."""
        return self._sampler.selective

    def remark(self) -> str | None:
        """Return what the sampler says of its last proposal, a sentence for the user, or None."""
        return self._sampler.remark(self._told) if self._told else None

    def propose(
        self,
        history: History,
        answer: Callable[[Point], Record | None],
        baseline: Record | None,
        fastest: Record | None,
        accept: Callable[[Point], bool],
        seed: int,
    ) -> Point | None:
        """Return the sampler's next point, None if it has none.

        `answer` returns the record of a canonical point, `fastest` is the fastest of the baselines.
        `accept` is false for points that are
        known, cannot be executed or are not worth a trial.
        """
        space = self._experiment.space
        records = [answer(space.canonical(o.point)) for o in history.observations]
        unique = {r.trial: r for r in records if r is not None}
        known = Known.of(space, list(unique.values()), self._experiment.objectives)
        pairs = zip(history.observations, records, strict=True)
        told = dataclasses.replace(
            history,
            observations=[self._with(observation, r, baseline) for observation, r in pairs],
            trained=self._trained,
            bounds=self._bounds(baseline) if baseline else None,
            reference=self._reference(baseline, fastest) if baseline and fastest else None,
            ideal=self._ideal(baseline) if baseline else None,
            factors=tuple(axis.positive for axis in self._axes),
            features=lambda points: self._describer.describe(points, known),
            accept=accept,
        )
        self._told = told
        return self._sampler.propose(told, seed)

    def _with(
        self, observation: Observation, record: Record | None, baseline: Record | None
    ) -> Observation:
        """Return an observation with what the record of its point tells."""
        if record is None or not record.measurements or observation.state == "running":
            return observation
        found = [record.measurements.get(axis.name) for axis in self._axes]
        others = baseline.measurements if baseline else {}
        return dataclasses.replace(
            observation,
            losses=observation.losses and tuple(_loss(a, record) for a in self._axes),
            partial=tuple(
                None if m is None else loss_of(axis, m.value)
                for m, axis in zip(found, self._axes, strict=True)
            ),
            deviations=tuple(
                None if m is None else _deviation(axis, m, others.get(axis.name))
                for m, axis in zip(found, self._axes, strict=True)
            ),
            seconds=record.seconds or None,
        )

    def _bounds(self, baseline: Record) -> tuple[float | None, ...]:
        """Return the largest allowed loss of each objective."""
        bounds = []
        for goal, axis in zip(self._experiment.objectives, self._axes, strict=True):
            bound = goal.bound(axis.value(baseline))
            reachable = bound is not None and (bound > 0 or not axis.positive)
            bounds.append(loss_of(axis, bound) if bound is not None and reachable else None)
        return tuple(bounds)

    def _reference(self, baseline: Record, fastest: Record) -> tuple[float | None, ...]:
        """Return the loss of each objective from which on a point is of no use.

        It is the limit, or what the unchanged model has in its fastest runtime; of a score without
        a limit it is unknown.
        """
        pairs = zip(self._experiment.objectives, self._axes, self._bounds(baseline), strict=True)
        return tuple(
            bound if bound is not None else None if goal.objective.trained else _loss(axis, fastest)
            for goal, axis, bound in pairs
        )

    def _ideal(self, baseline: Record) -> tuple[float | None, ...]:
        """Return the loss of each objective below which less is worth no more.

        A score above the unchanged model's is not what compression is for, and mostly luck.
        """
        pairs = zip(self._trained, self._axes, strict=True)
        return tuple(_loss(axis, baseline) if trained else None for trained, axis in pairs)


def loss_of(axis: Axis, value: float) -> float:
    """Return a value as a loss, lower is better: of a rate its inverse, a time for one unit."""
    if axis.sign > 0:
        return value
    return 1 / value if axis.positive else -value


def _loss(axis: Axis, record: Record) -> float:
    return loss_of(axis, axis.value(record))


def _deviation(axis: Axis, own: Measurement, baseline: Measurement | None) -> float:
    """Return the standard deviation of the noise of a measurement as a loss, to first order.

    What a score has in common with the baseline's, as it is one of the same samples, is no noise.
    """
    paired = difference(own, baseline) if baseline else None
    low, high = (paired.low, paired.high) if paired else (own.low, own.high)
    deviation = (high - low) / 2 / NORMAL
    return deviation / own.value**2 if axis.positive and axis.sign < 0 else deviation


def sampler_of(experiment: Experiment) -> Sampler:
    """Return the sampler that an experiment names; raises SearchError for a wrong setting."""
    entry, where = experiment.sampler, f"sampler.{experiment.sampler.name}"
    sampler_class = catalogue.find("sampler", entry.name, Sampler, experiment.folder)
    fields = fields_of(sampler_class, where, entry.settings)
    sampler: Sampler = instantiate(sampler_class, where, fields, experiment.folder)
    return sampler
