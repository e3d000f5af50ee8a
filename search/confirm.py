"""Measuring a front again before it is reported: in turns with the baseline, then on test data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives import Measurement
from objectives._artifact import annotate
from search.experiment import Experiment
from search.lane import Crashed, Lane
from search.record import Record
from spaces import Infeasible

ROUNDS = 6
"""In which all take turns, in all processes together."""
GROUP = 8
"""Artifacts measured in turns in a process, the baseline included, so that memory is bounded."""


def measure(experiment: Experiment, job: Mapping[str, Any], lane: Lane) -> dict[str, Any]:
    """Return {trial: {"measurements": ..., "test": ...}} or {trial: {"reason": ...}}.

    The first record of the job is the baseline: it is measured with every group.
    """
    records = [Record.from_json(r) for r in job["records"]]
    run = Path(job["run"])
    answers: dict[str, Any] = {str(r.trial): {"measurements": {}, "test": {}} for r in records}
    _again(experiment, records, run, lane, answers)
    names = [g.name for g in experiment.goals if g.objective.trained]
    for record in records:
        answer = answers[str(record.trial)]
        if "reason" in answer:
            continue
        answer["test"] = _tested(experiment, record, run, lane, names)
        annotate(run / str(record.artifact), confirmed=answer["measurements"], test=answer["test"])
    return answers


def _again(
    experiment: Experiment,
    records: Sequence[Record],
    run: Path,
    lane: Lane,
    answers: dict[str, Any],
) -> None:
    baseline, others = records[0], list(records[1:])
    for start in range(0, max(1, len(others)), GROUP - 1):
        group = [baseline, *others[start : start + GROUP - 1]]
        for record, found in zip(group, _together(experiment, group, run, lane), strict=True):
            answer = answers[str(record.trial)]
            if "reason" in found or not answer["measurements"]:
                answer |= found


def _together(
    experiment: Experiment, group: Sequence[Record], run: Path, lane: Lane
) -> list[dict[str, Any]]:
    """Return what was found of each: all in turns, or alone when one of them brings all down."""
    folders = {run / str(record.artifact): strategy_of(record) for record in group}
    data = run / "cache" / "data"
    try:
        return _in_turns(experiment, folders, data, lane)
    except (Crashed, Infeasible):
        return [_apart(experiment, f, s, data, lane) for f, s in folders.items()]


def _apart(
    experiment: Experiment, folder: Path, strategy: str | None, data: Path, lane: Lane
) -> dict[str, Any]:
    try:
        (found,) = _in_turns(experiment, {folder: strategy}, data, lane)
        return found
    except (Crashed, Infeasible) as error:
        return {"reason": str(error)}


def _in_turns(
    experiment: Experiment, folders: Mapping[Path, str | None], data: Path, lane: Lane
) -> list[dict[str, Any]]:
    found, processes = lane.interleave(experiment, folders, rounds=ROUNDS, data=data)
    return [
        {
            "measurements": {k: m.to_json() for k, m in found[str(folder)].items()},
            "processes": processes,
        }
        for folder in folders
    ]


def _tested(
    experiment: Experiment, record: Record, run: Path, lane: Lane, names: Sequence[str]
) -> dict[str, Any]:
    """Return the scores on the test split, those of an earlier confirmation if there are any."""
    if record.test:
        return {k: m.to_json() for k, m in record.test.items()}
    artifact = run / str(record.artifact)
    found = lane.measure(
        experiment,
        artifact,
        names,
        split="test",
        data=run / "cache" / "data",
        strategy=strategy_of(record),
    )
    return {k: m.to_json() for k, m in found.measurements.items()}


def strategy_of(record: Record) -> str | None:
    """Return how a record's devices shared the work when it was measured first."""
    strategy: str | None = record.facts.get("placement", {}).get("strategy")
    return strategy


def revised(record: Record, answer: Mapping[str, Any]) -> Record:
    """Return a record with the confirmed measurements in place of the search's."""
    if "reason" in answer:
        reason = f"could not be measured again: {answer['reason']}"
        return dataclasses.replace(record, state="failed", reason=reason)
    again = {k: Measurement(**m) for k, m in answer["measurements"].items()}
    first = {k: m.to_json() for k, m in record.measurements.items() if k in again}
    facts = {"during_search": first} | ({"processes": answer["processes"]} if again else {})
    return dataclasses.replace(
        record,
        measurements=record.measurements | again,
        test={k: Measurement(**m) for k, m in answer["test"].items()},
        facts=record.facts | facts,
    )
