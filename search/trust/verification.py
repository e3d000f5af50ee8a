"""Verification of a run: rebuild members from their records, and compare what comes out."""

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from objectives.artifacts import manifest_of
from objectives.host import cores
from search import run_folder
from search.checks import inspect_model
from search.errors import BadRun
from search.executors.local import Local
from search.experiment import Experiment
from search.measuring import MeasurementServer, checked
from search.origin import Origin, changes_since
from search.records import Record
from search.result import Result, load_result
from search.study import PendingTrial, reference_of
from search.trust.again import Timed, ratios

CLOSE = 1e-6
"""Relative difference of two scores that counts as rounding."""
TRIES = 2
"""Comparisons of times before they count as different: one in twenty is by chance."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One property of a rebuilt artifact beside that of the kept one."""

    name: str
    equal: bool | None
    """None if there is nothing to compare with."""
    text: str
    """The values, or the reason for the difference."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verified:
    """The checks of one member."""

    trial: int
    runtime: str
    point: str
    """The point in short form."""
    checks: tuple[Check, ...]

    @property
    def equal(self) -> bool:
        """True if nothing differs."""
        return all(check.equal is not False for check in self.checks)


def verify(
    folder: str | Path, *, trial: int | None = None, say: Callable[[str], None] = lambda line: None
) -> list[Verified]:
    """Rebuild the baseline and the front of a run, or one trial, from their records.

    Each is built anew from the task, at the record's point with the run's seed, without results
    that the run has cached. Files, scores and times are compared with those of the run; times in
    turns with the kept artifact. `say` is called with a line before each member, and with one for
    each change since the run began, which may be the reason of a difference. Raises BadRun if the
    run has no such complete trial.
    """
    folder = Path(folder)
    result, experiment = load_result(folder), run_folder.reopen(folder)
    members = _chosen(result, trial)
    with (
        tempfile.TemporaryDirectory() as place,
        contextlib.closing(MeasurementServer(print_traces=False)) as server,
    ):
        work = _Verification(
            result=result,
            experiment=dataclasses.replace(experiment, executor=None),
            scratch=Path(place),
            server=server,
        )
        for change in changes_since(folder, experiment, Origin.of(*inspect_model(experiment))):
            say(f"since the run began, {change.text}")
        verified = []
        for number, record in enumerate(members):
            say(f"rebuilding trial {record.trial} ({number + 1} of {len(members)})")
            verified.append(work.verified(record))
    return verified


def _chosen(result: Result, trial: int | None) -> Sequence[Record]:
    if trial is None:
        others = [r for r in result.front if r.trial != result.baseline.trial]
        return [result.baseline, *others]
    chosen = [r for r in result.records if r.trial == trial and r.state == "complete"]
    if not chosen:
        raise BadRun(f"{result.folder} has no complete trial {trial}")
    return chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Verification:
    """The rebuilding of members of one run in a scratch folder."""

    result: Result
    experiment: Experiment
    scratch: Path
    server: MeasurementServer

    def verified(self, record: Record) -> Verified:
        """Return the checks of a record."""
        rebuilt = self._rebuilt(record)
        if rebuilt.state != "complete":
            reason = f"it cannot be built again: {rebuilt.reason}"
            checks = [Check(name="weights", equal=False, text=reason)]
        else:
            checks = [self._files(record, rebuilt), *self._scores(record, rebuilt)]
            checks += self._times(record, rebuilt)
        return Verified(
            trial=record.trial,
            runtime=record.runtime,
            point=self.experiment.space.short(record.point),
            checks=tuple(checks),
        )

    def _rebuilt(self, record: Record) -> Record:
        """Return the record of a trial in the scratch folder at the same point."""
        baseline = self.result.baseline
        reference = reference_of(self.experiment, self.result.records) or baseline
        kept = (self.result.folder / str(reference.artifact)).resolve()
        local = Local(experiment=self.experiment, folder=self.scratch, cores=cores())
        pending = PendingTrial(
            trial=record.trial,
            point=record.point,
            forced=True,
            reference=dataclasses.replace(reference, artifact=str(kept)) if kept.is_dir() else None,
            baseline=baseline,
        )
        return local.evaluate(pending, lambda rung: None, lambda stage, done, of, detail: None)

    def _files(self, record: Record, rebuilt: Record) -> Check:
        """Compare the files that hold the weights, by their hashes."""
        if record.facts.identity is None:
            return Check(name="weights", equal=None, text="the record has no hash of its files")
        equal = record.facts.identity == rebuilt.facts.identity
        text = "same files by sha256" if equal else self._difference(record, rebuilt)
        return Check(name="weights", equal=equal, text=text)

    def _difference(self, record: Record, rebuilt: Record) -> str:
        """Return what differs between the files of two artifacts, and why if that is known."""
        reasons = []
        kept = self.result.folder / str(record.artifact)
        if kept.is_dir():
            old, new = checked(kept)["files"], manifest_of(self.scratch / str(rebuilt.artifact))
            names = sorted(n for n in {*old, *new["files"]} if old.get(n) != new["files"].get(n))
            reasons.append(f"{', '.join(names) or 'runtime or placement'} differ")
        else:
            reasons.append("the files differ by their hash")
        if record.facts.techniques != rebuilt.facts.techniques:
            reasons.append("techniques decided otherwise by what they measured")
        if record.facts.continued_with:
            reasons.append("the run was continued by force with changes")
        return "; ".join(reasons)

    def _scores(self, record: Record, rebuilt: Record) -> Iterator[Check]:
        for goal in self.experiment.objectives:
            if goal.objective.trained and goal.name in record.measurements:
                old = record.measurements[goal.name]
                new = rebuilt.measurements[goal.name].value
                equal = math.isclose(old.value, new, rel_tol=CLOSE)
                text = f"{old.value:.6g}"
                if not equal:
                    where = "in" if old.low <= new <= old.high else "out of"
                    text += f" and {new:.6g} ({new - old.value:+.3g}, {where} its interval)"
                yield Check(name=goal.name, equal=equal, text=text)

    def _times(self, record: Record, rebuilt: Record) -> Iterator[Check]:
        """Time both artifacts in turns; equal if the interval of their ratio contains 1."""
        names = [g.name for g in self.experiment.objectives if g.timed]
        kept = self.result.folder / str(record.artifact)
        if not kept.is_dir():
            for name in names:
                yield Check(name=name, equal=None, text="the run does not keep its artifact")
            return
        pair = [Timed.of(self.result.folder, record), Timed.of(self.scratch, rebuilt)]
        data = self.scratch / "cache" / "data"
        open_names = set(names)
        found: dict[str, Check] = {}
        for _ in range(TRIES if names else 0):
            new = ratios(self.server, self.experiment, pair, data)[1]
            for name in sorted(open_names):
                ratio = new[name]
                equal = ratio.low <= 1 <= ratio.high
                text = f"{ratio.value:.3f} of the kept one ({ratio.low:.3f} to {ratio.high:.3f})"
                found[name] = Check(name=name, equal=equal, text=text)
                open_names -= {name} if equal else set()
            if not open_names:
                break
        yield from (found[name] for name in names)
