"""Sampler for Optuna studies, as in `optuna.create_study(sampler=factory(seed, space))`."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.samplers import History, Observation, State
from search.samplers.structural.parameters import Parameters
from search.samplers.structural.sampler import Structural
from spaces import Choice, Point, Value

_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


def factory(seed: int, space: Mapping[str, Sequence[Value]]) -> optuna.samplers.BaseSampler:
    """Return a sampler for the parameters in `space`, each with its values.

    Numbers are taken as ordered, texts as names. Constraints of `trial.set_constraint` are kept.
    """
    return OptunaSampler(Structural(), seed, space)


class OptunaSampler(optuna.samplers.BaseSampler):
    """Proposes a point as each trial begins, and answers from it what the trial suggests.

    Parameters that are not in the space, and values that a suggestion does not allow, are drawn at
    random. Trials that run are believed to turn out as predicted.
    """

    def __init__(
        self, sampler: Structural, seed: int, space: Mapping[str, Sequence[Value]]
    ) -> None:
        self._sampler, self._seed = sampler, seed
        self._space = Parameters(ranges={n: Choice(tuple(values)) for n, values in space.items()})
        self._random = optuna.samplers.RandomSampler(seed=seed)
        self._points: dict[int, Point] = {}
        self._lock = threading.Lock()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return nothing: Optuna learns of a parameter's distribution as it is suggested."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Choose the point of a trial as it begins; its values are returned one by one later."""
        with self._lock:
            history = self._history(study, trial)
            point = self._sampler.propose(history, self._seed * 100_003 + trial.number)
            if point is not None:
                self._points[trial.number] = point
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of one parameter at the trial's point."""
        value = self._points.get(trial.number, {}).get(param_name)
        if value is not None and _allows(param_distribution, value):
            return value
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Forget the point of a trial that has ended: the study knows it."""
        self._points.pop(trial.number, None)

    def _history(self, study: Study, trial: FrozenTrial) -> History:
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        known = [(t, self._point(t)) for t in others if t.state in _STATES]
        signs = [-1.0 if d is StudyDirection.MAXIMIZE else 1.0 for d in study.directions]
        return History(
            space=self._space,
            objectives=len(signs),
            observations=[_observation(t, p, signs) for t, p in known if p is not None],
        )

    def _point(self, trial: FrozenTrial) -> Point | None:
        """Return the point of a trial; None if it lacks a parameter or has a value of its own."""
        point = self._points.get(trial.number, {}) | trial.params
        dimensions = self._space.dimensions()
        if all(n in point and d.holds(point[n]) for n, d in dimensions.items()):
            return {name: point[name] for name in dimensions}
        return None


def _observation(trial: FrozenTrial, point: Point, signs: Sequence[float]) -> Observation:
    losses = None
    if trial.state is TrialState.COMPLETE:
        losses = tuple(s * v for s, v in zip(signs, trial.values, strict=True))
    return Observation(
        point=point,
        state=_STATES[trial.state],
        losses=losses,
        violations=tuple(trial.constraints.values()),
    )


def _allows(distribution: BaseDistribution, value: Value) -> bool:
    try:
        return bool(distribution.to_external_repr(distribution.to_internal_repr(value)) == value)
    except ValueError:
        return False
