"""Confirmation of a front: time it in turns with the baseline, and score it on test data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives import Measurement, artifacts
from search.experiment import Experiment
from search.measuring import Crashed, MeasurementServer
from search.records import Record
from spaces import Infeasible

ROUNDS = 6
"""Rounds in which every artifact is timed once, summed over all processes."""
GROUP = 8
"""Artifacts timed in turns in one process, including the baseline, to bound the memory."""

Values = Mapping[str, Measurement]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedTimes:
    """Times of an artifact, and those of the baseline in turns with it."""

    times: Values
    baseline_times: Values
    processes: int


def pending(records: Sequence[Record], baseline: Record) -> list[Record]:
    """Return the records that were not confirmed with this baseline."""
    return [r for r in records if r.facts.confirmed_beside != baseline.trial]


def measure(
    experiment: Experiment, job: Mapping[str, Any], server: MeasurementServer
) -> dict[str, Any]:
    """Return {trial: {"measurements": ..., "test": ..., "facts": ...}} or {trial: {"reason": ...}}.

    The first record of the job is the baseline, which is measured with every group. A baseline
    confirmed before keeps its values and is not in the result. Raises Crashed or Infeasible if the
    baseline cannot be measured, as the fault is then not in the members.
    """
    baseline, *others = [Record.from_json(r) for r in job["records"]]
    work = _Confirmation(
        experiment=experiment, run=Path(job["run"]), server=server, baseline=baseline
    )
    timed: dict[int, PairedTimes | str] = {}
    for start in range(0, max(1, len(others)), GROUP - 1):
        # The baseline keeps its values from the first group.
        timed = work.timed(others[start : start + GROUP - 1]) | timed
    paired = timed[baseline.trial]
    assert isinstance(paired, PairedTimes)
    unconfirmed = pending([baseline, *others], baseline)
    reference = paired.times if baseline in unconfirmed else baseline.measurements
    return {str(r.trial): work.answer(r, timed[r.trial], reference) for r in unconfirmed}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Confirmation:
    """The measurements that confirm the records of a run, relative to a baseline."""

    experiment: Experiment
    run: Path
    server: MeasurementServer
    baseline: Record

    def timed(self, members: Sequence[Record]) -> dict[int, PairedTimes | str]:
        """Return the times of a group and the baseline, or the reason why a member has none.

        If the group fails, each member is timed in turns with the baseline alone. If that fails
        too, as for two artifacts that do not fit in memory together, the member is timed right
        after it.
        """
        try:
            return self._in_turns([self.baseline, *members])
        except (Crashed, Infeasible):
            if not members:
                raise
        if len(members) == 1:
            return self._one_by_one(members[0])
        times: dict[int, PairedTimes | str] = {}
        for member in members:
            times = self.timed([member]) | times
        return times

    def answer(self, record: Record, timed: PairedTimes | str, reference: Values) -> dict[str, Any]:
        """Return a record's new values, or the reason why there are none."""
        if isinstance(timed, str):
            return {"reason": timed}
        try:
            test = self._test_scores(record)
        except (Crashed, Infeasible) as error:
            self._measure_test(self.baseline)  # raises if the fault is not in the record
            return {"reason": f"{error} (on the test split)"}
        times, pace = at_baseline_pace(timed, reference)
        values = {k: m.to_json() for k, m in times.items()}
        artifacts.annotate(self.run / str(record.artifact), confirmed=values, test=test)
        facts: dict[str, Any] = {"confirmed_beside": self.baseline.trial}
        facts |= {"processes": timed.processes} if values else {}
        facts |= {"pace": pace} if pace else {}
        return {"measurements": values, "test": test, "facts": facts}

    def _in_turns(self, records: Sequence[Record]) -> dict[int, PairedTimes | str]:
        """Return the times of records measured in turns, of which the baseline is the first."""
        folders = {self.run / str(r.artifact): r.facts.strategy for r in records}
        data = self.run / "cache" / "data"
        times_by_folder, processes = self.server.interleave(
            self.experiment, folders, rounds=ROUNDS, data=data
        )
        values = [times_by_folder[str(folder)] for folder in folders]
        return {
            r.trial: PairedTimes(times=times, baseline_times=values[0], processes=processes)
            for r, times in zip(records, values, strict=True)
        }

    def _one_by_one(self, member: Record) -> dict[int, PairedTimes | str]:
        """Return the times of the baseline and of a member, each timed by itself."""
        baseline_alone = self._in_turns([self.baseline])  # raises if the fault is not in the member
        try:
            member_alone = self._in_turns([member])
        except (Crashed, Infeasible) as error:
            return baseline_alone | {member.trial: str(error)}
        baseline, timed = baseline_alone[self.baseline.trial], member_alone[member.trial]
        assert isinstance(baseline, PairedTimes)
        assert isinstance(timed, PairedTimes)
        return baseline_alone | {
            member.trial: dataclasses.replace(timed, baseline_times=baseline.times)
        }

    def _test_scores(self, record: Record) -> dict[str, Any]:
        """Return the scores on the test split, from an earlier confirmation if there is one."""
        scores = record.test or self._measure_test(record)
        return {k: m.to_json() for k, m in scores.items()}

    def _measure_test(self, record: Record) -> Values:
        names = [g.name for g in self.experiment.objectives if g.objective.trained]
        if not names:
            return {}
        return self.server.measure(
            self.experiment,
            self.run / str(record.artifact),
            names,
            split="test",
            data=self.run / "cache" / "data",
            strategy=record.facts.strategy,
        ).measurements


def at_baseline_pace(
    paired: PairedTimes, reference: Values
) -> tuple[dict[str, Measurement], dict[str, float]]:
    """Return times scaled so that the baseline's are those of `reference`, and the factors.

    The speed of a machine drifts between groups. Scaling keeps each ratio to the baseline as it was
    measured in turns, so that members of different groups can be compared. Factors of 1 are left
    out.
    """
    pace = {k: reference[k].value / m.value for k, m in paired.baseline_times.items()}
    scaled_times = {}
    for name, measurement in paired.times.items():
        scaled = {k: getattr(measurement, k) * pace[name] for k in ("value", "low", "high")}
        scaled_times[name] = dataclasses.replace(measurement, **scaled)
    return scaled_times, {k: factor for k, factor in pace.items() if factor != 1.0}


def revised(record: Record, answer: Mapping[str, Any]) -> Record:
    """Return a record with the confirmed measurements in place of those of the search."""
    if "reason" in answer:
        reason = f"could not be measured again: {answer['reason']}"
        return dataclasses.replace(record, state="failed", reason=reason)
    confirmed = {k: Measurement(**m) for k, m in answer["measurements"].items()}
    replaced = {k: m.to_json() for k, m in record.measurements.items() if k in confirmed}
    return dataclasses.replace(
        record,
        measurements=record.measurements | confirmed,
        test={k: Measurement(**m) for k, m in answer["test"].items()},
        facts=dataclasses.replace(
            record.facts,
            **{"during_search": record.facts.during_search or replaced, "pace": None}
            | answer["facts"],
        ),
    )
