"""What a comparison tells: the table, the verdict and the raw results."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _front import Pick
from _timing import Rounds
from _workload import Workload
from peers._plain import Program

EAGER = "eager"
OURS = "ours: "
PACKAGES = ("torch", "torchao", "onnx", "onnxruntime", "openvino", "nncf", "numpy")


@dataclasses.dataclass(kw_only=True)
class Row:
    """One candidate and what was found out about it."""

    title: str
    ours: bool
    folder: Path
    pick: Pick | None = None
    """The record, for points of ours."""
    state: str = "built"
    """built, skipped or failed."""
    reason: str | None = None
    program: Program | None = None
    build_seconds: float = 0.0
    """Wall time until its first batch, compilation in the process included; loading only for
    points of ours."""
    accuracy: float | None = None
    """Score on the test split."""
    megabytes: float | None = None


def table(rows: Mapping[str, Row], timed: Rounds) -> str:
    """Return the Markdown table, the fastest last; what could not be had says why."""
    lines = [
        "| | latency, ms (95 % interval) | times faster than eager | test score | files, MB |",
        "|---|---:|---:|---:|---:|",
    ]
    order = sorted(timed.medians, key=lambda name: -timed.latency(name)[0])
    lines += [_line(name, rows[name], timed) for name in order]
    lines += [
        f"| {row.title} | {row.state}: {row.reason} | | | |"
        for row in rows.values()
        if row.state != "built"
    ]
    return "\n".join(lines)


def _line(name: str, row: Row, timed: Rounds) -> str:
    value, low, high = timed.latency(name)
    faster = timed.ratio(EAGER, name)[0]
    size = "none" if row.megabytes is None else f"{row.megabytes:.2f}"
    latency = f"{value:.3f} ({low:.3f} to {high:.3f})"
    return f"| {row.title} | {latency} | {faster:.2f} | {row.accuracy:.4f} | {size} |"


def winners_of(rows: Mapping[str, Row], timed: Rounds, within: float) -> list[str]:
    """Return the fastest peer, then the fastest of ours, that keep the accuracy."""
    floor = _floor(rows, within)
    found = []
    for ours in (False, True):
        able = [n for n in timed.medians if rows[n].ours is ours and _accuracy(rows[n]) >= floor]
        found += sorted(able, key=lambda name: timed.latency(name)[0])[:1]
    return found


def _accuracy(row: Row) -> float:
    assert row.accuracy is not None
    return row.accuracy


def _floor(rows: Mapping[str, Row], within: float) -> float:
    return _accuracy(rows[EAGER]) - within - 1e-9


def verdict(
    rows: Mapping[str, Row], timed: Rounds, winners: Sequence[str], duel: Rounds, within: float
) -> str:
    """Return in one line the fastest peer and the fastest of ours, and how they compare."""
    rule = f"Within {within:g} of the uncompressed test score"
    told = [_told(rows[name], duel.latency(name)[0]) for name in winners]
    mine = [n for n in winners if rows[n].ours]
    if not mine:
        tried = any(row.ours for row in rows.values())
        rest = "none of ours keeps it" if tried else "no run of ours was given"
        return f"{rule}, the fastest peer is {told[0]}; {rest}."
    value, low, high = duel.ratio(winners[0], mine[0])
    return (
        f"{rule}, the fastest peer is {told[0]} and the fastest of ours is {told[1]}: "
        f"{value:.2f} times faster (95 % interval {low:.2f} to {high:.2f})."
    )


def _told(row: Row, latency: float) -> str:
    return f"{row.title.removeprefix(OURS)} ({latency:.3f} ms, {_accuracy(row):.4f})"


def store(
    file: Path,
    user: Workload,
    rows: Mapping[str, Row],
    timed: Rounds,
    winners: Sequence[str],
    duel: Rounds,
) -> None:
    """Write everything measured as JSON."""
    content = {
        "workload": user.name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "target": {"device": "cpu", "threads": user.threads, "batch_size": user.batch_size},
        "rows": {name: _raw(name, row, timed) for name, row in rows.items()},
        "fastest": {name: duel.medians[name] for name in winners},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _raw(name: str, row: Row, timed: Rounds) -> dict[str, Any]:
    found: dict[str, Any] = {
        "title": row.title,
        "ours": row.ours,
        "state": row.state,
        "reason": row.reason,
        "build_seconds": round(row.build_seconds, 2),
        "test_score": row.accuracy,
        "megabytes": row.megabytes,
    }
    if row.pick:
        found |= {"point": row.pick.point, "reported": row.pick.reported}
    if name in timed.medians:
        value, low, high = timed.latency(name)
        found["latency_ms"] = {"value": value, "low": low, "high": high}
        found["rounds_ms"] = timed.medians[name]
    return found


def machine() -> dict[str, Any]:
    """Return the processor, the system and the versions of the packages compared."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
