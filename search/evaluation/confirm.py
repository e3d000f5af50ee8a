"""Confirmation of a front: time it in turns with the reference, and score it on test data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives import Measurement, artifacts
from search.experiment import Experiment, timed
from search.measuring import Crashed, MeasurementServer
from search.records import Record
from spaces import Infeasible

GROUP = 8
"""Artifacts timed in turns in one process, the baseline included and the reference not, to bound
the memory."""

Values = Mapping[str, Measurement]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """Times of an artifact in turns with the reference, and the number of processes."""

    values: Values
    processes: int

    @property
    def precision(self) -> float | None:
        """Half the width of the widest interval, as a share of the time; None without times."""
        return max((m.half_width for m in self.values.values()), default=None)


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
        experiment=experiment,
        run=Path(job["run"]),
        server=server,
        baseline=baseline,
        reference=Record.from_json(job["reference"]),
    )
    times: dict[int, Times | str] = {}
    for start in range(0, max(1, len(others)), GROUP - 1):
        # The baseline keeps its values from the first group.
        times = work.times(others[start : start + GROUP - 1]) | times
    unconfirmed = pending([baseline, *others], baseline)
    new = times[baseline.trial]
    assert isinstance(new, Times)
    baseline_values = new.values if baseline in unconfirmed else baseline.measurements
    return {str(r.trial): work.answer(r, times[r.trial], baseline_values) for r in unconfirmed}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Confirmation:
    """The measurements that confirm the records of a run, relative to a baseline."""

    experiment: Experiment
    run: Path
    server: MeasurementServer
    baseline: Record
    reference: Record
    """All take turns with its artifact; its own values stay those of the run."""

    def times(self, members: Sequence[Record]) -> dict[int, Times | str]:
        """Return the times of a group and the baseline, or the reason why a member has none.

        If the group fails, each member is timed in turns with baseline and reference alone. If that
        fails too, as for artifacts that do not fit in memory together, they are timed one by one.
        """
        try:
            return self._in_turns([self.baseline, *members])
        except (Crashed, Infeasible):
            if not members:
                raise
        if len(members) == 1:
            return self._one_by_one(members[0])
        times: dict[int, Times | str] = {}
        for member in members:
            times = self.times([member]) | times
        return times

    def answer(self, record: Record, times: Times | str, baseline: Values) -> dict[str, Any]:
        """Return a record's new values, or the reason why there are none."""
        if isinstance(times, str):
            return {"reason": times}
        try:
            test = self._test_scores(record)
        except (Crashed, Infeasible) as error:
            self._measure_test(self.baseline)  # raises if the fault is not in the record
            return {"reason": f"{error} (on the test split)"}
        measurements = times.values
        if record.trial != self.baseline.trial:
            same = self.reference.trial == self.baseline.trial
            measurements = {
                k: m.beside(baseline[k].value, None if same else baseline[k])
                for k, m in measurements.items()
            }
        values = {k: m.to_json() for k, m in measurements.items()}
        artifacts.annotate(self.run / str(record.artifact), confirmed=values, test=test)
        facts: dict[str, Any] = {"confirmed_beside": self.baseline.trial}
        facts |= {"processes": times.processes, "precision": times.precision} if values else {}
        return {"measurements": values, "test": test, "facts": facts}

    def _in_turns(self, records: Sequence[Record]) -> dict[int, Times | str]:
        """Return the times of records measured in turns with the reference."""
        known = {r.trial: r for r in (self.reference, *records)}
        folders = {trial: self.run / str(r.artifact) for trial, r in known.items()}
        times_by_folder, processes = self.server.interleave(
            self.experiment,
            {folders[trial]: r.facts.strategy for trial, r in known.items()},
            values={name: m.value for name, m in self._reference_times.items()},
            data=self.run / "cache" / "data",
        )
        times = {trial: times_by_folder[str(folder)] for trial, folder in folders.items()}
        times[self.reference.trial] = dict(self._reference_times)
        return {r.trial: Times(values=times[r.trial], processes=processes) for r in records}

    def _one_by_one(self, member: Record) -> dict[int, Times | str]:
        """Return the times of the baseline and a member, each timed by itself after the reference.

        Their values are told at the run's pace, as that of the reference is.
        """
        reference = self._alone(self.reference)  # raises if the fault is not in the member
        pace = {
            name: known.value / reference.values[name].value
            for name, known in self._reference_times.items()
        }
        times: dict[int, Times | str] = {}
        for record in (self.baseline, member):
            try:
                alone = self._alone(record)
            except (Crashed, Infeasible) as error:
                if record is self.baseline:
                    raise
                times[record.trial] = str(error)
            else:
                values = {name: _scaled(m, pace[name]) for name, m in alone.values.items()}
                times[record.trial] = Times(values=values, processes=alone.processes)
        return times

    def _alone(self, record: Record) -> Times:
        """Return the times of an artifact without another one in its process."""
        measured = self.server.measure(
            self.experiment,
            self.run / str(record.artifact),
            list(self._reference_times),
            split="validation",
            data=self.run / "cache" / "data",
            strategy=record.facts.strategy,
        )
        return Times(values=measured.measurements, processes=measured.processes)

    @property
    def _reference_times(self) -> Values:
        names = timed(self.experiment.objectives)
        return {k: m for k, m in self.reference.measurements.items() if k in names}

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


def _scaled(measurement: Measurement, factor: float) -> Measurement:
    """Return a measurement with its value and interval times a factor."""
    fields = {k: getattr(measurement, k) * factor for k in ("value", "low", "high")}
    return dataclasses.replace(measurement, **fields)


def revised(record: Record, answer: Mapping[str, Any]) -> Record:
    """Return a record with the confirmed measurements in place of those of the search."""
    if "reason" in answer:
        reason = f"could not be measured again: {answer['reason']}"
        return dataclasses.replace(record, state="failed", reason=reason)
    confirmed = {k: Measurement.from_json(m) for k, m in answer["measurements"].items()}
    replaced = {k: m.to_json() for k, m in record.measurements.items() if k in confirmed}
    return dataclasses.replace(
        record,
        measurements=record.measurements | confirmed,
        test={k: Measurement.from_json(m) for k, m in answer["test"].items()},
        facts=dataclasses.replace(
            record.facts,
            **{"during_search": record.facts.during_search or replaced} | answer["facts"],
        ),
    )
