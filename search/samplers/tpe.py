"""Tree-structured Parzen estimator, from Optuna."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.samplers import History, Observation, Sampler
from spaces import Dimension, Interval, Point, Space, rounded

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tpe(Sampler):
    """Optuna's TPE for several objectives; ordered numbers are encoded by their rank.

    Source: Ozaki et al. 2022, Multiobjective tree-structured Parzen estimator.
    """

    startup_trials: int = 4
    """Number of trials before which points are drawn at random."""
    candidates: int = 64
    """Number of random candidates, of which the one with the largest expected improvement is
    taken."""
    multivariate: bool = True
    """True if dimensions are sampled jointly."""

    def __post_init__(self) -> None:
        if self.startup_trials < 1 or self.candidates < 1:
            raise ValueError(
                "startup_trials and candidates must be at least 1, got "
                f"{self.startup_trials} and {self.candidates}"
            )

    def propose(self, history: History, seed: int) -> Point:
        """Return the point that TPE proposes after the trials of `history`."""
        codes = _Codes(history.space)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            directions=["minimize"] * history.objectives,
            sampler=self._sampler(seed, any(o.state == "running" for o in history.observations)),
        )
        study.add_trials([codes.trial(o) for o in history.observations])
        trial = study.ask(fixed_distributions=codes.distributions)
        return codes.point(trial.params)

    def _sampler(self, seed: int, parallel: bool) -> optuna.samplers.TPESampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # All arguments are explicit because defaults differ between versions of Optuna.
            return optuna.samplers.TPESampler(
                n_startup_trials=self.startup_trials,
                n_ei_candidates=self.candidates,
                seed=seed,
                multivariate=self.multivariate,
                group=False,
                constant_liar=parallel,
            )


class _Codes:
    """Conversion between points and Optuna parameters: ordered numbers become ranks."""

    def __init__(self, space: Space) -> None:
        self._grids = {name: d.values() for name, d in space.dimensions().items()}
        self.distributions = {
            name: _distribution(dimension, self._grids[name])
            for name, dimension in space.dimensions().items()
        }

    def trial(self, observation: Observation) -> FrozenTrial:
        """Return an observation as an Optuna trial."""
        return create_trial(
            state=STATES[observation.state],
            values=observation.losses,
            params={name: self._code(name, v) for name, v in observation.point.items()},
            distributions=self.distributions,
            constraints={str(i): v for i, v in enumerate(observation.violations)},
        )

    def point(self, params: Mapping[str, Any]) -> Point:
        """Return the point that Optuna parameters encode."""
        return {
            name: (self._grids[name] or ())[value] if self._ranked(name) else rounded(value)
            for name, value in params.items()
        }

    def _code(self, name: str, value: Any) -> Any:
        return list(self._grids[name] or ()).index(value) if self._ranked(name) else value

    def _ranked(self, name: str) -> bool:
        return isinstance(self.distributions[name], IntDistribution)


def _distribution(dimension: Dimension, grid: tuple[Any, ...] | None) -> BaseDistribution:
    if grid is None:
        assert isinstance(dimension, Interval)
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    if any(isinstance(v, str | bool) for v in grid):
        return CategoricalDistribution(list(grid))
    return IntDistribution(0, len(grid) - 1)
