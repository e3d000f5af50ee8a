"""Samplers that play on a table: this project's by their history, Optuna's by a study."""

import abc
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
from _tables_table import Table
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from search.samplers import Features, History, Observation, Sampler
from search.samplers.structural import Structural, generic
from search.samplers.tpe import Tpe
from spaces import Point

ROWS = 4_000
"""Number of random unseen rows among which a sampler that is handed rows chooses."""


class Player(abc.ABC):
    """A sampler with what it has seen of a table."""

    @abc.abstractmethod
    def ask(self, running: Sequence[int], unseen: NDArray[np.bool_]) -> Point:
        """Propose a point while the rows `running` are evaluated."""

    @abc.abstractmethod
    def tell(self, proposed: Point, row: int) -> None:
        """Learn the losses of the row that answered a proposal."""


class Ours(Player):
    """A sampler of this project; it learns of the rows that answered."""

    def __init__(
        self,
        sampler: Sampler,
        table: Table,
        seed: int,
        *,
        rows: bool = False,
        believes: bool = True,
        features: Callable[[Sequence[Point]], Features] | None = None,
    ) -> None:
        self._sampler, self._table, self._seed = sampler, table, seed
        self._rows, self._believes = rows, believes
        self._features = table.remembered(features or (lambda some: generic(table.space, some)))
        self._seen: list[Observation] = []
        self._asked = 0

    def ask(self, running: Sequence[int], unseen: NDArray[np.bool_]) -> Point:
        """Propose a point of the space, or one of the unseen rows."""
        table, self._asked = self._table, self._asked + 1
        points = [table.points[row] for row in running] if self._believes else []
        history = History(
            space=table.space,
            objectives=table.losses.shape[1],
            observations=[*self._seen, *(Observation(point=p, state="running") for p in points)],
            features=self._features,
            accept=lambda point: table.row(point) not in running,
        )
        seed = self._seed * 100_003 + self._asked
        if self._rows and isinstance(self._sampler, Structural):
            known = np.random.default_rng(seed).permutation(np.flatnonzero(unseen))[:ROWS]
            pool = [table.points[row] for row in known]
            point = self._sampler.choose(history, pool)
        else:
            point = self._sampler.propose(history, seed)
        return point or table.points[int(np.argmax(unseen))]

    def tell(self, proposed: Point, row: int) -> None:
        """Learn the losses of a row as those of its own point."""
        losses = self._table.losses[row]
        failed = bool(np.isnan(losses).any())
        self._seen.append(
            Observation(
                point=self._table.points[row],
                state="failed" if failed else "complete",
                losses=None if failed else tuple(losses.tolist()),
                seconds=float(self._table.seconds[row]) if self._table.timed else None,
            )
        )


class Shipped(Player):
    """A sampler of Optuna; it learns of its own proposals, or of the rows that answered them."""

    def __init__(
        self, sampler: optuna.samplers.BaseSampler, table: Table, *, own: bool = False
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._table, self._own = table, own
        self._study = optuna.create_study(
            directions=["minimize"] * table.losses.shape[1], sampler=sampler
        )
        self._distributions = {n: _distribution(table, n) for n in table.space.ranges}
        self._open: list[tuple[Point, optuna.Trial]] = []

    def ask(self, running: Sequence[int], unseen: NDArray[np.bool_]) -> Point:
        """Ask the study for a point; ordered values are numbered."""
        trial = self._study.ask(fixed_distributions=self._distributions)
        point = {n: self._grid(n)[int(trial.params[n])] for n in self._distributions}
        self._open.append((point, trial))
        return point

    def tell(self, proposed: Point, row: int) -> None:
        """Tell the study the losses of a row; one that it did not ask for is added."""
        losses = self._table.losses[row]
        failed = bool(np.isnan(losses).any())
        places = [i for i, (point, _) in enumerate(self._open) if point == proposed]
        if places:
            _, trial = self._open.pop(places[0])
            if self._own and not failed:
                self._study.tell(trial, losses.tolist())
            else:
                self._study.tell(trial, state=TrialState.FAIL)
        if not (failed or (self._own and places)):
            self._add(self._table.points[row], losses.tolist())

    def _add(self, point: Point, losses: list[float]) -> None:
        params = {n: self._grid(n).index(point[n]) for n in self._distributions}
        trial = create_trial(params=params, distributions=self._distributions, values=losses)
        self._study.add_trial(trial)

    def _grid(self, name: str) -> list[object]:
        return list(self._table.space.ranges[name].values() or ())


def _distribution(table: Table, name: str) -> BaseDistribution:
    grid = table.space.ranges[name].values() or ()
    if any(isinstance(v, str | bool) for v in grid):
        return CategoricalDistribution(list(range(len(grid))))
    return IntDistribution(0, len(grid) - 1)


def _without_totals(table: Table) -> Callable[[Sequence[Point]], Features]:
    def features(points: Sequence[Point]) -> Features:
        known = generic(table.space, points)
        kept = [i for i, group in enumerate(known.groups) if not group.endswith(" totals")]
        groups = tuple(known.groups[i] for i in kept)
        return Features(values=known.values[:, kept], groups=groups, minor=known.minor)

    return features


def _without_minor(table: Table) -> Callable[[Sequence[Point]], Features]:
    def features(points: Sequence[Point]) -> Features:
        known = generic(table.space, points)
        return Features(values=known.values, groups=known.groups)

    return features


def _totals_alone(table: Table) -> Callable[[Sequence[Point]], Features]:
    def features(points: Sequence[Point]) -> Features:
        known = generic(table.space, points)
        kept = [i for i, group in enumerate(known.groups) if group not in known.minor]
        groups = tuple(known.groups[i] for i in kept)
        return Features(values=known.values[:, kept], groups=groups)

    return features


PLAYERS: dict[str, Callable[[Table, int], Player]] = {
    "structural": lambda t, s: Ours(Structural(), t, s),
    "structural, rows as candidates": lambda t, s: Ours(Structural(), t, s, rows=True),
    "structural, uniform": lambda t, s: Ours(Structural(neighbours=0), t, s),
    "structural, without totals": lambda t, s: Ours(
        Structural(), t, s, features=_without_totals(t)
    ),
    "structural, totals alone": lambda t, s: Ours(Structural(), t, s, features=_totals_alone(t)),
    "structural, without minor": lambda t, s: Ours(Structural(), t, s, features=_without_minor(t)),
    "structural, without belief": lambda t, s: Ours(Structural(), t, s, believes=False),
    "structural, 4 at first": lambda t, s: Ours(Structural(startup=4), t, s),
    "structural, 12 at first": lambda t, s: Ours(Structural(startup=12), t, s),
    "structural, cost 0": lambda t, s: Ours(Structural(cost_exponent=0.0), t, s),
    "structural, cost 1": lambda t, s: Ours(Structural(cost_exponent=1.0), t, s),
    "tpe, ours": lambda t, s: Ours(Tpe(), t, s),
    "tpe, univariate, 10 at first": lambda t, s: Ours(
        Tpe(multivariate=False, startup_trials=10), t, s
    ),
    "tpe": lambda t, s: Shipped(optuna.samplers.TPESampler(seed=s), t),
    "gp": lambda t, s: Shipped(_gp(s), t),
    "nsga2-20": lambda t, s: Shipped(
        optuna.samplers.NSGAIISampler(population_size=20, seed=s), t, own=True
    ),
    "nsga2-50": lambda t, s: Shipped(
        optuna.samplers.NSGAIISampler(population_size=50, seed=s), t, own=True
    ),
    "random": lambda t, s: Shipped(optuna.samplers.RandomSampler(seed=s), t),
}
"""What can play, by the name on the command line; it gets the table and a seed."""


def _gp(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.GPSampler(seed=seed)
