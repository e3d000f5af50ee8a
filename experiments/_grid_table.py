"""The table of a grid: one row for each point that a run evaluated, as PyArrow stores it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from search import Experiment, Record
from search.experiment import Goal
from spaces import Space

BEFORE = ("reference", "shape", "prepare", "probe")
"""Stages of a trial up to its first measurements."""
STAGES = (*BEFORE, "train", "deploy", "measure", "profile")
SHARED = ("shape", "train")
"""Stages whose result is kept for later trials of the run."""
CACHED = 0.5
"""Share of the longest time of a shared stage below which a trial found its result done."""


def write(
    file: Path, experiment: Experiment, records: Sequence[Record], made: Mapping[str, Any]
) -> pa.Table:
    """Write the table of an experiment's records, and return it; `made` goes into its metadata."""
    space, goals = experiment.space, experiment.objectives
    columns: dict[str, list[Any]] = {}
    for row in rows(space, goals, records):
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    told = {
        "dimensions": list(space.dimensions()),
        "objectives": {g.name: "max" if g.rising else "min" for g in goals},
        "experiment": experiment.name,
        **made,
    }
    table = pa.table(columns).replace_schema_metadata({b"paretune": json.dumps(told).encode()})
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, file, compression="zstd")
    return table


def rows(space: Space, goals: Sequence[Goal], records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return one row for each record, in the order of their trials.

    `seconds` is what the trial took in this run, where an earlier one may have left the edited
    shape or the trained weights; `from_cache` names those stages. `seconds_shape` and
    `seconds_train` are those of the trial that did the work, so that they are the same for all
    trials which share it, as `shape` and `training` tell. `seconds_to_probe` and `seconds_alone`
    are until the first measurements, and in all, of a trial that finds nothing done.
    """
    owned = [_shared_keys(space, record) for record in records]
    spent = [dict(record.facts.seconds or {}) for record in records]
    full: dict[str, float] = {}
    for keys, seconds in zip(owned, spent, strict=True):
        for stage, name in keys.items():
            full[name] = max(full.get(name, 0.0), seconds.get(stage, 0.0))
    return [
        _row(space, goals, record, keys, seconds, full)
        for record, keys, seconds in zip(records, owned, spent, strict=True)
    ]


def _row(
    space: Space,
    goals: Sequence[Goal],
    record: Record,
    keys: Mapping[str, str],
    spent: Mapping[str, float],
    full: Mapping[str, float],
) -> dict[str, Any]:
    whole = {stage: spent.get(stage, 0.0) for stage in STAGES}
    whole |= {stage: full[name] for stage, name in keys.items()}
    cached = [s for s, name in keys.items() if spent.get(s, 0.0) < CACHED * full[name]]
    facts = record.facts.to_json()
    return {
        **{name: record.point[name] for name in space.dimensions()},
        **_values(goals, record),
        "size": record.facts.size,
        "state": record.state,
        "reason": record.reason,
        "trial": record.trial,
        "seconds": record.seconds,
        **{f"seconds_{stage}": seconds for stage, seconds in whole.items()},
        "seconds_to_probe": sum(whole[stage] for stage in BEFORE),
        "seconds_alone": record.seconds + sum(whole[s] - spent.get(s, 0.0) for s in keys),
        "from_cache": " ".join(cached),
        "shape": keys["shape"],
        "training": keys.get("train", ""),
        "weights_removed": record.facts.weights_removed or 0.0,
        "operations": (record.facts.work or {}).get("operations"),
        "facts": json.dumps({k: v for k, v in facts.items() if k not in _ELSEWHERE}),
    }


_ELSEWHERE = ("seconds", "during_search", "size")
"""Facts that have columns of their own."""


def _values(goals: Sequence[Goal], record: Record) -> dict[str, Any]:
    """Return value and interval of each objective, as the search and not the end measured them."""
    earlier = record.facts.during_search or {}
    values: dict[str, Any] = {}
    for goal in goals:
        known = record.measurements.get(goal.name)
        fields = earlier.get(goal.name) or (known.to_json() if known else {})
        values[goal.name] = fields.get("value")
        values |= {f"{goal.name}_{end}": fields.get(end) for end in ("low", "high")}
    return values


def _shared_keys(space: Space, record: Record) -> dict[str, str]:
    """Return what a record's shape and training are shared by, by the name of the stage."""
    shape = json.dumps(space.shape(record.point), sort_keys=True)
    recovery = space.plan(record.point).recovery
    keys = {"shape": f"shape {shape}"}
    if recovery.steps:
        keys["train"] = f"{recovery.steps} steps {recovery!r} {shape}"
    return keys
