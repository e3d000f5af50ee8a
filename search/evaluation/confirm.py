"""Measuring a front again before it is reported: in turns with the baseline, then on test data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives import Measurement, artifacts
from search.experiment import Experiment
from search.measuring import Crashed, Lane
from search.records import Record
from spaces import Infeasible

ROUNDS = 6
"""In which all take turns, in all processes together."""
GROUP = 8
"""Artifacts measured in turns in a process, the baseline included, so that memory is bounded."""

Values = Mapping[str, Measurement]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turns:
    """What was timed of an artifact, and of the baseline in turns with it."""

    found: Values
    beside: Values
    processes: int


def pending(records: Sequence[Record], baseline: Record) -> list[Record]:
    """Return the records that have not been confirmed beside this baseline."""
    return [r for r in records if r.facts.confirmed_beside != baseline.trial]


def measure(experiment: Experiment, job: Mapping[str, Any], lane: Lane) -> dict[str, Any]:
    """Return {trial: {"measurements": ..., "test": ..., "facts": ...}} or {trial: {"reason": ...}}.

    The first record of the job is the baseline: it is measured with every group. If it was
    confirmed before it keeps its values and is not in the answer. Raises Crashed or Infeasible
    when it cannot be measured: the fault is then not in the members.
    """
    baseline, *others = [Record.from_json(r) for r in job["records"]]
    work = _Confirmation(experiment=experiment, run=Path(job["run"]), lane=lane, baseline=baseline)
    timed: dict[int, Turns | str] = {}
    for start in range(0, max(1, len(others)), GROUP - 1):
        # of the baseline the values beside the first group stay
        timed = work.timed(others[start : start + GROUP - 1]) | timed
    own = timed[baseline.trial]
    assert isinstance(own, Turns)
    asked = pending([baseline, *others], baseline)
    reference = own.found if baseline in asked else baseline.measurements
    return {str(r.trial): work.answer(r, timed[r.trial], reference) for r in asked}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Confirmation:
    """What artifacts of a run are measured with, and beside what."""

    experiment: Experiment
    run: Path
    lane: Lane
    baseline: Record

    def timed(self, members: Sequence[Record]) -> dict[int, Turns | str]:
        """Return what was timed of a group and of the baseline, or why a member could not be.

        When one brings all down, each is timed in turns with the baseline alone. What cannot be,
        such as two that do not fit in memory together, is timed right after it.
        """
        try:
            return self._in_turns([self.baseline, *members])
        except (Crashed, Infeasible):
            if not members:
                raise
        if len(members) == 1:
            return self._one_by_one(members[0])
        found: dict[int, Turns | str] = {}
        for member in members:
            found = self.timed([member]) | found
        return found

    def answer(self, record: Record, timed: Turns | str, reference: Values) -> dict[str, Any]:
        """Return a record's new values, or the reason why there are none."""
        if isinstance(timed, str):
            return {"reason": timed}
        try:
            test = self._tested(record)
        except (Crashed, Infeasible) as error:
            self._scored(self.baseline)  # raises where the fault is not in the record
            return {"reason": f"{error} (on the test split)"}
        again, pace = paced(timed, reference)
        values = {k: m.to_json() for k, m in again.items()}
        artifacts.annotate(self.run / str(record.artifact), confirmed=values, test=test)
        facts: dict[str, Any] = {"confirmed_beside": self.baseline.trial}
        facts |= {"processes": timed.processes} if values else {}
        facts |= {"pace": pace} if pace else {}
        return {"measurements": values, "test": test, "facts": facts}

    def _in_turns(self, records: Sequence[Record]) -> dict[int, Turns | str]:
        """Return what was timed of records in turns, the baseline being the first."""
        folders = {self.run / str(r.artifact): r.facts.strategy for r in records}
        data = self.run / "cache" / "data"
        found, processes = self.lane.interleave(self.experiment, folders, rounds=ROUNDS, data=data)
        values = [found[str(folder)] for folder in folders]
        return {
            r.trial: Turns(found=own, beside=values[0], processes=processes)
            for r, own in zip(records, values, strict=True)
        }

    def _one_by_one(self, member: Record) -> dict[int, Turns | str]:
        beside = self._in_turns([self.baseline])  # raises where the fault is not in the member
        try:
            found = self._in_turns([member])
        except (Crashed, Infeasible) as error:
            return beside | {member.trial: str(error)}
        base, own = beside[self.baseline.trial], found[member.trial]
        assert isinstance(base, Turns)
        assert isinstance(own, Turns)
        return beside | {member.trial: dataclasses.replace(own, beside=base.found)}

    def _tested(self, record: Record) -> dict[str, Any]:
        """Return the scores on the test split, those of an earlier confirmation if there are."""
        found = record.test or self._scored(record)
        return {k: m.to_json() for k, m in found.items()}

    def _scored(self, record: Record) -> Values:
        names = [g.name for g in self.experiment.objectives if g.objective.trained]
        if not names:
            return {}
        return self.lane.measure(
            self.experiment,
            self.run / str(record.artifact),
            names,
            split="test",
            data=self.run / "cache" / "data",
            strategy=record.facts.strategy,
        ).measurements


def paced(turns: Turns, reference: Values) -> tuple[dict[str, Measurement], dict[str, float]]:
    """Return times at the pace at which the baseline's are those of `reference`.

    A machine's pace drifts between one group and the next. So every ratio to the baseline is the
    one that was seen in turns, and members of different groups compare by it. Returns by what
    each was multiplied as well, where that is not 1.
    """
    pace = {k: reference[k].value / m.value for k, m in turns.beside.items()}
    times = {}
    for name, found in turns.found.items():
        scaled = {k: getattr(found, k) * pace[name] for k in ("value", "low", "high")}
        times[name] = dataclasses.replace(found, **scaled)
    return times, {k: factor for k, factor in pace.items() if factor != 1.0}


def revised(record: Record, answer: Mapping[str, Any]) -> Record:
    """Return a record with the confirmed measurements in place of the search's."""
    if "reason" in answer:
        reason = f"could not be measured again: {answer['reason']}"
        return dataclasses.replace(record, state="failed", reason=reason)
    again = {k: Measurement(**m) for k, m in answer["measurements"].items()}
    first = {k: m.to_json() for k, m in record.measurements.items() if k in again}
    return dataclasses.replace(
        record,
        measurements=record.measurements | again,
        test={k: Measurement(**m) for k, m in answer["test"].items()},
        facts=dataclasses.replace(
            record.facts,
            **{"during_search": record.facts.during_search or first, "pace": None}
            | answer["facts"],
        ),
    )
