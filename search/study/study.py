"""The study: which point is next, and that nothing is asked twice or lost."""

import dataclasses
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import optuna

from objectives import Measurement
from search import catalogue
from search.experiment import Experiment, built, fields_of
from search.records import Axis, Facts, Record, front
from search.samplers import Sampler
from search.study.known_impossible import implied
from search.study.neighbours import neighbour
from search.study.opening import SHARE, baselines, opening
from search.study.optuna_trials import GIVEN_BACK, Trials
from spaces import Point

PATIENCE = 4
"""Asks in a row that bring nothing new before the front's neighbourhood is searched instead."""

Refuse = Callable[[Point], str | None]
"""Says why a point cannot be executed, None if it can."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A point to be evaluated, and the trial of the study that waits for its record."""

    trial: int
    point: Point
    forced: bool
    """A baseline: it is run to its end whatever the front looks like."""


class Study:
    """What is known of one experiment, and what is asked next; kept in its run folder."""

    def __init__(self, trials: Trials, experiment: Experiment, refuse: Refuse) -> None:
        self._trials, self.experiment, self._refuse = trials, experiment, refuse
        self._sampler = sampler_of(experiment)
        self._first = {_key(point) for point in baselines(experiment)}
        opened = max(2 * len(self._first), int(SHARE * experiment.trials))
        self._sources = (
            _Source(self._opening, budget=opened),
            _Source(self._returned),
            _Source(self._sampled, learns=True),
            _Source(self._neighbours),
        )
        self._open: dict[int, optuna.Trial] = {}
        self._pending: dict[int, str] = {}
        self.axes = tuple(Axis.of(g.name, g.objective) for g in experiment.objectives)
        self._records: dict[int, Record] = {}
        self._by_point: dict[str, Record] = {}
        self._impossible: dict[int, Record] = {}
        """Records that say of other points that they cannot be built either."""
        self._scale: Mapping[str, Measurement] | None = None
        """The baseline's values by which all records were judged."""
        for record in sorted(trials.records(), key=_assumed):  # what was tried comes first
            if not _assumed(record) or self._still_refused(record.point):
                self._keep(record)
        self._excused = self._excuse()
        self._judge()

    @classmethod
    def open(cls, folder: Path, experiment: Experiment, refuse: Refuse) -> "Study":
        """Create the study of a run folder, or continue it.

        Its experiment has the name that the run was begun with. Raises BadRun when the folder
        holds the study of another experiment.
        """
        trials = Trials.open(folder, experiment)
        return cls(trials, dataclasses.replace(experiment, name=trials.name), refuse)

    # What is known

    @property
    def records(self) -> list[Record]:
        """Return all records in the order of their trials."""
        return [self._records[n] for n in sorted(self._records)]

    @property
    def paid(self) -> int:
        """Return how many trials count against the budget: those for which something was built."""
        built = [r for r in self._records.values() if r.state != "infeasible"]
        return sum(r.trial not in self._excused for r in built)

    @property
    def baseline(self) -> Record | None:
        """Return the neutral point's record in the neutral runtime, or in the first that works."""
        return next(iter(self.baselines()), None)

    def baselines(self) -> list[Record]:
        """Return the records of the neutral point in every runtime where it is complete."""
        found = (self._answer(point) for point in baselines(self.experiment))
        return [r for r in found if r and r.state == "complete"]

    def without_baseline(self) -> str | None:
        """Return why no runtime can measure the unchanged model, None while one can or may."""
        reasons = []
        for point in baselines(self.experiment):
            record = self._answer(point)
            reason = record.reason if record else self._refused(point)
            if reason is None or (record and record.state == "complete"):
                return None
            reasons.append((record is None, reason))
        return min(reasons, key=lambda told: told[0])[1]  # rather what was tried than refused

    def front(self) -> list[Record]:
        """Return the non-dominated feasible records."""
        return front(self.records, self.axes)

    # Asking

    def ask(self) -> Asked | None:
        """Return the next point, None when no new one could be found.

        Points that no runtime can execute, or that are impossible for a reason which a trial
        found out, are recorded with the reason and never returned;
        points that were answered before are told again from their record.
        """
        for source in self._sources:
            for proposal in source.proposals():
                if asked := self._considered(source, proposal):
                    return asked
        return None

    def tell(self, asked: Asked, record: Record) -> Record:
        """Store a record, with the limits judged against the baseline, and return it."""
        self._pending.pop(asked.trial, None)
        stored = self._record(self._open.pop(asked.trial), record)
        self._judge()
        return stored

    def abandon(self, asked: Asked) -> None:
        """Give a point back that was not evaluated: it will be asked again."""
        self._pending.pop(asked.trial, None)
        trial = self._open.pop(asked.trial, None)
        if trial is not None:  # else the record is stored already, and only telling it failed
            self._trials.fail(trial, GIVEN_BACK)

    def revise(self, records: Sequence[Record]) -> None:
        """Replace stored records, after the front was confirmed and scored on the test split."""
        for record in records:
            self._keep(record)
        self._judge()
        judged = [self._judged(record, self.baseline) for record in records]
        for record in judged:
            self._keep(record)
        self._trials.revise(judged)

    def close_stale(self) -> int:
        """Close the trials that a killed search left open; return how many there were."""
        return self._trials.close_stale()

    # Inside

    def _excuse(self) -> set[int]:
        """Retry failed baselines on resume, and return their trials, which then use no budget."""
        for key in self._first & self._by_point.keys():
            if self._by_point[key].state == "failed":
                del self._by_point[key]
        if self.baseline is not None:
            return set()
        failed = [r for r in self._records.values() if r.state == "failed"]
        return {r.trial for r in failed if _key(r.point) in self._first}

    def _times(self) -> dict[str, float]:
        """Return the baselines' values of what is timed first, by runtime, lower being faster."""
        axis = next(
            (a for g, a in zip(self.experiment.objectives, self.axes, strict=True) if g.timed),
            None,
        )
        return {r.runtime: axis.loss(r) for r in self.baselines()} if axis else {}

    def _considered(self, source: "_Source", proposal: Point) -> Asked | None:
        """Return the trial of a proposal, None where it needs none."""
        point = self.experiment.space.canonical(proposal)
        if not source.learns and self._known(point):
            return None
        reason = None if self._known(point) else self._refused(point)
        spent = self.paid + len(self._pending) >= source.budget
        if reason is None and spent and _key(point) not in self._first:
            return None
        trial = self._trials.ask(proposal)
        if record := self._answer(point):
            self._trials.tell(trial, record)
        elif _key(point) in self._pending.values():
            self._trials.fail(trial, "another trial is evaluating the same point")
        elif reason:
            self._record(trial, self._infeasible(trial.number, point, reason))
        else:
            self._open[trial.number] = trial
            self._pending[trial.number] = _key(point)
            return Asked(trial=trial.number, point=point, forced=_key(point) in self._first)
        return None

    def _opening(self) -> Iterator[Point]:
        yield from opening(self.experiment, self._times())

    def _returned(self) -> Iterator[Point]:
        yield from self._trials.given_back()

    def _sampled(self) -> Iterator[Point]:
        """Yield what the sampler proposes, from a seed of its own for every trial.

        So a resumed search draws what an uninterrupted one would have drawn.
        """
        for _ in range(PATIENCE):
            seed = self.experiment.seed * 100_003 + self._trials.count
            proposal = self._sampler.propose(self._trials.history(), seed)
            if proposal is None:
                return
            yield proposal

    def _neighbours(self) -> Iterator[Point]:
        """Yield a new executable point near the front, or any where those are all known."""
        parents = [r.point for r in self.front()] or [self.experiment.space.neutral()]
        draw = random.Random(f"{self.experiment.seed}-{self._trials.count}")
        point = neighbour(
            self.experiment.space,
            parents,
            draw,
            lambda point: not self._known(point) and not self._refused(point),
        )
        if point is not None:
            yield point

    def _refused(self, point: Point) -> str | None:
        """Return why a point cannot be executed, as is known beforehand or found out by now."""
        found = self._impossible.values()
        return self._refuse(point) or implied(self.experiment.space, found, point)

    def _still_refused(self, point: Point) -> bool:
        """Whether a point is refused once more: another machine may have what one lacked."""
        return self._answer(point) is None and self._refused(point) is not None

    def _keep(self, record: Record) -> None:
        self._records[record.trial] = record
        self._by_point[_key(record.point)] = record
        if record.facts.impossible:
            self._impossible[record.trial] = record

    def _known(self, point: Point) -> bool:
        return self._answer(point) is not None or _key(point) in self._pending.values()

    def _answer(self, point: Point) -> Record | None:
        return self._by_point.get(_key(point))

    def _infeasible(self, number: int, point: Point, reason: str) -> Record:
        runtime = self.experiment.space.plan(point).runtime
        return Record(trial=number, point=point, runtime=runtime, state="infeasible", reason=reason)

    def _record(self, trial: optuna.Trial, record: Record) -> Record:
        """Keep a record with its limits, and store it."""
        self._keep(record)  # the first baseline is judged against itself
        record = self._judged(record, self.baseline)
        self._keep(record)
        self._trials.store(trial, record)
        return record

    def _judge(self) -> None:
        """Judge all anew where the baseline is another, or its values are.

        With several workers records come before it, or beside that of another runtime.
        """
        base = self.baseline
        values = base.measurements if base else None
        if values != self._scale:
            self._scale = values
            for record in list(self._records.values()):
                if record.state == "complete":
                    self._keep(self._judged(record, base))

    def _judged(self, record: Record, base: Record | None) -> Record:
        """Return a record with its limits, which only what is complete has."""
        if record.state != "complete" or base is None:
            return dataclasses.replace(record, limits={})
        limits = {
            name: violation
            for goal in self.experiment.objectives
            for name, violation in goal.violations(
                record.measurements[goal.name].value, base.measurements[goal.name].value
            ).items()
        }
        return dataclasses.replace(record, limits=limits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
    """Where points come from."""

    proposals: Callable[[], Iterator[Point]] = dataclasses.field(kw_only=False)
    """Yields points, canonical or not; each has been considered before the next is drawn."""
    budget: float = math.inf
    """Trials after which the source is not asked any more, but for baselines."""
    learns: bool = False
    """Whether it has to know what became of each proposal, also of those made before."""


def sampler_of(experiment: Experiment) -> Sampler:
    """Return the sampler that an experiment names; raises SearchError in one line."""
    named, where = experiment.sampler, f"sampler.{experiment.sampler.name}"
    kind = catalogue.find("sampler", named.name, Sampler, experiment.folder)
    fields = fields_of(kind, where, named.settings)
    sampler: Sampler = built(kind, where, fields, experiment.folder)
    return sampler


def _assumed(record: Record) -> bool:
    """Whether a point was refused beforehand, and nothing was tried."""
    return record.state == "infeasible" and record.facts == Facts()


def _key(point: Point) -> str:
    return json.dumps(point, sort_keys=True)
