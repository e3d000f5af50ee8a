"""The tables of four_gpus.py as Markdown, from the files that its parts wrote."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Sequence[str]
OPTIONS = {
    "prune.channels.ratio": "prune {}",
    "distill.logits.steps": "{} steps",
    "precision.compute.dtype": "{}",
}
"""Dimensions that a table tells, if they are not neutral."""
NEUTRAL = (0, 0.0, "float32")


def markdown(folder: Path) -> str:
    """Return a table of each part that has a file in `folder`."""
    kinds = {"front": front, "scaling": scaling, "recovery": recovery}
    files = sorted(folder.glob("*.json"))
    tables = [
        f"### {file.stem}\n\n{kinds[kind](content)}"
        for file in files
        if (kind := file.stem.partition("-")[0]) in kinds
        and (content := json.loads(file.read_text())) is not None
    ]
    return "\n\n".join(tables)


def front(content: Mapping[str, Any]) -> str:
    """Return the records of a front with their devices; its members are measured again."""
    members = content["front"] or {"baseline": None, "front": []}
    confirmed = {r["trial"]: r for r in (members["baseline"], *members["front"]) if r}
    on_front = {r["trial"] for r in members["front"]}
    complete = [r for r in content["records"] if r["state"] == "complete"]
    rows = [_record(confirmed.get(r["trial"], r), r["trial"] in on_front) for r in complete]
    head = (
        "trial",
        "point",
        "devices",
        "ms a batch",
        "samples/s",
        "score",
        "front",
        "auto's timings",
    )
    states = [f"{r['state']} (trial {r['trial']}): {r['reason']}" for r in content["records"]
              if r["state"] not in ("complete", "infeasible")]  # fmt: skip
    title = "" if content["front"] else "Not confirmed.\n\n"
    return title + _table(head, rows) + "".join(f"\n\n{state}" for state in states)


def _record(record: Mapping[str, Any], member: bool) -> Row:
    known, placement = record["measurements"], record["facts"].get("placement") or {}
    count = record["point"].get("placement.devices.count", 1)
    shared = f"{count}, {placement['strategy']}" if placement else f"{count}"
    return (
        str(record["trial"]),
        _point(record["point"]),
        shared,
        f"{known['latency']['value']:.3g}",
        f"{known['throughput']['value']:,.0f}",
        f"{known['accuracy']['value']:.3f}",
        "yes" if member else "",
        placement.get("reason", "").partition("): ")[2] or placement.get("reason", ""),
    )


def _point(point: Mapping[str, Any]) -> str:
    told = {k: point[k] for k in OPTIONS if point.get(k, 0) not in NEUTRAL}
    words = [OPTIONS[k].format(value) for k, value in told.items()]
    return ", ".join(words) or "unchanged"


def scaling(content: Mapping[str, Any]) -> str:
    """Return the trials an hour by workers, and what a worker spends on a trial."""
    head = (
        "workers",
        "trials",
        "steady trials/h",
        "gain",
        "efficiency",
        "s of a worker a trial",
        "in its stages",
        "process",
        "between trials",
        "more than with one worker",
        "start",
        "latencies that agree",
    )
    return _table(head, [tuple(_search(row)) for row in content["found"] or []])


def _search(row: Mapping[str, Any]) -> Iterator[str]:
    spent, agreement = row["worker_seconds_a_trial"], row["agreement"]
    more = {k: v for k, v in row["more_seconds_a_trial"].items() if abs(v) >= 0.05}
    yield str(row["workers"])
    yield str(row["trials"])
    yield f"{row['trials_per_hour']:.0f}"
    yield f"{row['gain']:.2f}"
    yield f"{row['efficiency']:.0%}"
    yield f"{spent['whole']:.2f}"
    yield ", ".join(f"{k} {v:g}" for k, v in row["seconds_by_stage"].items())
    yield f"{spent['process']:.2f}"
    yield f"{spent['between']:.2f}"
    yield ", ".join(f"{k} {v:+g}" for k, v in more.items())
    yield f"{row['start_seconds'] + row['first_trials_seconds']:.0f} s"
    yield f"{agreement['overlapping']} of {agreement['points']}"


def recovery(content: Mapping[str, Any]) -> str:
    """Return the seconds a step, the memory and the losses by number of devices."""
    head = ("devices", "seconds a step", "gain", "GB a device", "loss of the first and last step",
            "largest difference", "start and end")  # fmt: skip
    found = content["found"] or {"rows": []}
    return _table(head, [tuple(_training(row)) for row in found["rows"]])


def _training(row: Mapping[str, Any]) -> Iterator[str]:
    yield str(row["devices"])
    yield f"{row['seconds_a_step']:.3f}"
    yield f"{row['gain']:.2f}"
    yield f"{row['memory'] / 1e9:.1f}" if row["memory"] else "unknown"
    yield f"{row['losses'][0]:.4f}, {row['losses'][-1]:.4f}"
    yield f"{row['largest_difference']:.1e}"
    yield f"{row['seconds_to_first_step']:.0f} s, {row['seconds_after_last_step']:.0f} s"


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
