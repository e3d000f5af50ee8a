"""Ask the sampler of an experiment for points, with all that the records tell of them."""

import dataclasses
from collections.abc import Callable

from search import catalogue
from search.experiment import Experiment, fields_of, instantiate
from search.records import NORMAL, Axis, Record
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
        self._trained = tuple(g.objective.trained for g in experiment.objectives)

    @property
    def selective(self) -> bool:
        """False if every proposal must be evaluated."""
        return self._sampler.selective

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
        axes = [a for a, trained in zip(self._axes, self._trained, strict=True) if trained]
        unique = {r.trial: r for r in records if r is not None}
        known = Known.of(space, unique.values(), axes)
        pairs = zip(history.observations, records, strict=True)
        told = dataclasses.replace(
            history,
            observations=[self._with(observation, r) for observation, r in pairs],
            trained=self._trained,
            bounds=self._bounds(baseline) if baseline else None,
            reference=self._reference(baseline, fastest) if baseline and fastest else None,
            features=lambda points: self._describer.describe(points, known),
            accept=accept,
        )
        return self._sampler.propose(told, seed)

    def _with(self, observation: Observation, record: Record | None) -> Observation:
        """Return an observation with what the record of its point tells."""
        if record is None or not record.measurements or observation.state == "running":
            return observation
        found = [record.measurements.get(axis.name) for axis in self._axes]
        signs = [axis.sign for axis in self._axes]
        return dataclasses.replace(
            observation,
            partial=tuple(
                None if m is None else s * m.value for m, s in zip(found, signs, strict=True)
            ),
            deviations=tuple(None if m is None else (m.high - m.low) / 2 / NORMAL for m in found),
            seconds=record.seconds or None,
        )

    def _bounds(self, baseline: Record) -> tuple[float | None, ...]:
        """Return the largest allowed loss of each objective."""
        bounds = []
        for goal, axis in zip(self._experiment.objectives, self._axes, strict=True):
            bound = goal.bound(axis.value(baseline))
            bounds.append(None if bound is None else axis.sign * bound)
        return tuple(bounds)

    def _reference(self, baseline: Record, fastest: Record) -> tuple[float | None, ...]:
        """Return the loss of each objective from which on a point is of no use.

        It is the limit, or what the unchanged model has in its fastest runtime; of a score without
        a limit it is unknown.
        """
        pairs = zip(self._experiment.objectives, self._axes, self._bounds(baseline), strict=True)
        return tuple(
            bound if bound is not None else None if goal.objective.trained else axis.loss(fastest)
            for goal, axis, bound in pairs
        )


def sampler_of(experiment: Experiment) -> Sampler:
    """Return the sampler that an experiment names; raises SearchError for a wrong setting."""
    entry, where = experiment.sampler, f"sampler.{experiment.sampler.name}"
    sampler_class = catalogue.find("sampler", entry.name, Sampler, experiment.folder)
    fields = fields_of(sampler_class, where, entry.settings)
    sampler: Sampler = instantiate(sampler_class, where, fields, experiment.folder)
    return sampler
