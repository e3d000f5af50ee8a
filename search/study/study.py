"""Study: chooses the next point, and stores every record."""

import dataclasses
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import optuna

from objectives import Measurement
from search.experiment import Experiment
from search.records import Axis, Facts, Record, front
from search.study.known import KnownPoints, Refuse, key
from search.study.neighbours import neighbour
from search.study.opening import SHARE, baselines, opening
from search.study.optuna_trials import GIVEN_BACK, Trials
from search.study.sampling import Sampling
from spaces import Point

PATIENCE = 4
"""Proposals of the sampler in a row without a new point before neighbours of the front are tried
instead."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PendingTrial:
    """A point to evaluate, and the number of the trial that waits for its record."""

    trial: int
    point: Point
    forced: bool
    """True for a baseline, which is never stopped early."""
    reference: Record | None = None
    """Record whose artifact takes turns with the trial's; None before there is a baseline."""
    baseline: Record | None = None
    """Record to which its ratios are told; None before there is a baseline."""


class Study:
    """The records of an experiment and its sources of new points, stored in the run folder."""

    def __init__(
        self,
        trials: Trials,
        experiment: Experiment,
        refuse: Refuse,
        noted: Sequence[str] = (),
        given: Sequence[Point] = (),
    ) -> None:
        self._trials, self.experiment = trials, experiment
        self._noted, self._given = tuple(noted), tuple(given)
        self._sampling = Sampling(experiment)
        self._known = KnownPoints(experiment, refuse, selective=self._sampling.selective)
        self._baseline_keys = {key(point) for point in baselines(experiment)}
        opening_budget = max(2 * len(self._baseline_keys), int(SHARE * experiment.trials))
        self._sources = (
            _Source(self._opening, budget=opening_budget),
            _Source(self._returned),
            _Source(self._sampled, learns=True),
            _Source(self._neighbours),
        )
        self._open: dict[int, optuna.Trial] = {}
        self.axes = tuple(Axis.of(g.name, g.objective) for g in experiment.objectives)
        self._scale: Mapping[str, Measurement] | None = None
        """Baseline measurements from which the limits of all records were computed."""
        for record in sorted(trials.records(), key=_assumed):  # tried points come first
            if not _assumed(record) or self._still_refused(record.point):
                self._known.keep(record)
        self._excused = self._excuse()
        self._judge()

    @classmethod
    def open(
        cls,
        folder: Path,
        experiment: Experiment,
        refuse: Refuse,
        noted: Sequence[str] = (),
        given: Sequence[Point] = (),
    ) -> "Study":
        """Create the study of a run folder, or continue it.

        The study keeps the name under which the run was begun. `noted` are changes since then that
        the user forced; every new record notes them. `given` points come right after the
        baselines. Raises BadRun if the folder holds the study
        of another experiment, unless changes were forced.
        """
        trials = Trials.open(folder, experiment, forced=bool(noted))
        return cls(trials, dataclasses.replace(experiment, name=trials.name), refuse, noted, given)

    # Records

    @property
    def records(self) -> list[Record]:
        """All records in the order of their trials."""
        return self._known.records

    @property
    def paid(self) -> int:
        """Number of trials that count against the budget: those for which something was built."""
        records = [r for r in self.records if r.state != "infeasible"]
        return sum(r.trial not in self._excused for r in records)

    @property
    def baseline(self) -> Record | None:
        """The neutral point's record in the neutral runtime, or in the first runtime that works."""
        return self._known.baseline

    @property
    def reference(self) -> Record | None:
        """The fastest of the baselines, with which all that is timed takes turns."""
        return self._known.reference

    def baselines(self) -> list[Record]:
        """Return the complete records of the neutral point, one for each runtime that works."""
        return self._known.baselines()

    def baseline_failure(self) -> str | None:
        """Return the reason why no runtime can measure the unchanged model, None if one may.

        A baseline that has not been tried, and is not refused, may still be measured.
        """
        return self._known.baseline_failure()

    def front(self) -> list[Record]:
        """Return the non-dominated feasible records."""
        return front(self.records, self.axes)

    def remark(self) -> str | None:
        """Return what the sampler says of its last proposal, a sentence for the user, or None."""
        return self._sampling.remark()

    # Next points

    def ask(self) -> PendingTrial | None:
        """Return the next point to evaluate, or None if no new one was found.

        Points that the executor refuses, or that an earlier trial proved impossible, are recorded
        with the reason and not returned. Points with a record are answered from it. In the place of
        a point with recovery training, its untrained sibling is returned first.
        """
        for source in self._sources:
            for proposal in source.proposals():
                if pending := self._consider(source, proposal):
                    return pending
        return None

    def tell(self, pending: PendingTrial, record: Record) -> Record:
        """Store a record with its violations of the limits, and return it."""
        self._known.pending.pop(pending.trial, None)
        if self._noted:
            facts = dataclasses.replace(record.facts, continued_with=self._noted)
            record = dataclasses.replace(record, facts=facts)
        stored = self._record(self._open.pop(pending.trial), record)
        self._judge()
        return stored

    def abandon(self, pending: PendingTrial) -> None:
        """Close a trial that was not evaluated; its point will be proposed again."""
        self._known.pending.pop(pending.trial, None)
        trial = self._open.pop(pending.trial, None)
        if trial is not None:  # else the record is stored, and only telling Optuna failed
            self._trials.fail(trial, GIVEN_BACK)

    def revise(self, records: Sequence[Record]) -> None:
        """Replace stored records after the front was confirmed and scored on the test split."""
        for record in records:
            self._known.keep(record)
        self._judge()
        judged = [self._judged(record, self.baseline) for record in records]
        for record in judged:
            self._known.keep(record)
        self._trials.revise(judged)

    def close_stale(self) -> int:
        """Close the trials that a killed search left open; return their number."""
        return self._trials.close_stale()

    # Internals

    def _excuse(self) -> set[int]:
        """Retry failed baselines on resume, and return their trials, which then use no budget."""
        for point in baselines(self.experiment):
            if (record := self._known.answer(point)) and record.state == "failed":
                self._known.reopen(point)
        if self.baseline is not None:
            return set()
        failed = [r for r in self.records if r.state == "failed"]
        return {r.trial for r in failed if key(r.point) in self._baseline_keys}

    def _consider(self, source: "_Source", proposal: Point) -> PendingTrial | None:
        """Open a trial for a proposal and return it; None if the point needs no evaluation."""
        point = self.experiment.space.canonical(proposal)
        if not self._known.holds(point) and (cheapest := self._known.cheapest(point)) != point:
            if cheapest is None:
                return None
            proposal = point = cheapest
        if not source.learns and self._known.holds(point):
            return None
        reason = None if self._known.holds(point) else self._known.refused(point)
        spent = self.paid + len(self._known.pending) >= source.budget
        if reason is None and spent and key(point) not in self._baseline_keys:
            return None
        trial = self._trials.ask(proposal)
        if record := self._known.answer(point):
            self._trials.tell(trial, record)
        elif self._known.evaluating(point):
            self._trials.fail(trial, "another trial is evaluating the same point")
        elif reason:
            self._record(trial, self._infeasible(trial.number, point, reason))
        else:
            self._open[trial.number] = trial
            self._known.pending[trial.number] = key(point)
            return PendingTrial(
                trial=trial.number,
                point=point,
                forced=key(point) in self._baseline_keys,
                reference=self.reference,
                baseline=self.baseline,
            )
        return None

    def _opening(self) -> Iterator[Point]:
        yield from opening(self.experiment, self._known.times(), self._given)

    def _returned(self) -> Iterator[Point]:
        yield from self._trials.given_back()

    def _sampled(self) -> Iterator[Point]:
        """Yield proposals of the sampler, each with its own seed derived from the number of trials.

        A resumed search thus proposes the same points as an uninterrupted one. Proposals that are
        not worth a trial add none, so the seed counts them too.
        """
        for attempt in range(PATIENCE):
            seed = self.experiment.seed * 100_003 + self._trials.count + attempt * 1_000_003
            proposal = self._sampling.propose(
                self._trials.history(),
                self._known.answer,
                self.baseline,
                self.reference,
                self._known.worthwhile,
                seed,
            )
            if proposal is None:
                return
            yield proposal

    def _neighbours(self) -> Iterator[Point]:
        """Yield a new executable point near the front, or elsewhere if all those are known."""
        parents = [r.point for r in self.front()] or [self.experiment.space.neutral()]
        generator = random.Random(f"{self.experiment.seed}-{self._trials.count}")
        point = neighbour(
            self.experiment.space,
            parents,
            generator,
            self._known.worthwhile,
        )
        if point is not None:
            yield point

    def _still_refused(self, point: Point) -> bool:
        """True if the point is still infeasible: this machine may have what another one lacked."""
        return self._known.answer(point) is None and self._known.refused(point) is not None

    def _infeasible(self, number: int, point: Point, reason: str) -> Record:
        runtime = self.experiment.space.plan(point).runtime
        return Record(trial=number, point=point, runtime=runtime, state="infeasible", reason=reason)

    def _record(self, trial: optuna.Trial, record: Record) -> Record:
        """Store a record with its violations of the limits."""
        self._known.keep(record)  # kept first, as the first baseline is judged against itself
        record = self._judged(record, self.baseline)
        self._known.keep(record)
        self._trials.store(trial, record)
        return record

    def _judge(self) -> None:
        """Recompute the limits of all records if the baseline or its values have changed.

        With several workers, records may arrive before the baseline, or before the baseline of a
        preferred runtime.
        """
        base = self.baseline
        values = base.measurements if base else None
        if values != self._scale:
            self._scale = values
            for record in list(self.records):
                if record.state == "complete":
                    self._known.keep(self._judged(record, base))

    def _judged(self, record: Record, base: Record | None) -> Record:
        """Return a record with its violations of the limits, which only complete records have."""
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
    """A source of proposals for new points."""

    proposals: Callable[[], Iterator[Point]] = dataclasses.field(kw_only=False)
    """Yields points, canonical or not; each is considered before the next is drawn."""
    budget: float = math.inf
    """Number of trials after which the source may only propose baselines."""
    learns: bool = False
    """True if the source must learn the result of every proposal, including repeated ones."""


def _assumed(record: Record) -> bool:
    """True if a point was refused without being tried."""
    return record.state == "infeasible" and record.facts == Facts()
