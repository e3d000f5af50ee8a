"""Content of MLflow runs for a study and its trials: names, parameters, metrics, tags, notes."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from search.records import Axis, Record, State, fronts, gain, hypervolume_history
from search.reporting import Summary, change, headline, quantity, title, trust
from search.tracking.addresses import redact

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "infeasible": "KILLED", "failed": "FAILED"}
NOTE_LENGTH = 7500
"""Most characters of a description: servers refuse or cut tags above 8000."""
CURVE_LENGTH = 500
SIZE = "size_MB"
"""Metric of an artifact's bytes, whether or not they are an objective."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DesiredRun:
    """Content that one run should have in the store."""

    name: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)
    """Metrics with one value for each step."""
    seconds: float = 0.0
    """Duration of the run, in seconds."""


def trial(record: Record, summary: Summary) -> DesiredRun:
    """Return the run for a trial."""
    point = "baseline" if record.trial == summary.baseline.trial else summary.short(record)
    role = summary.role(record)
    tags = {
        "study": quoted(summary.key),
        "role": "baseline" if record.trial == summary.baseline.trial else "trial",
        "trial": str(record.trial),
        "state": record.state,
        "front": str(role == "front").lower(),
        "runtime": record.runtime,
        "point": cut(point, 250),
        "outcome": role,
        "reason": cut(record.reason or "", 500),
        "mlflow.note.content": _remark(record, summary),
    }
    searched = {k: str(v) for k, v in record.point.items() if k in summary.dimensions}
    return DesiredRun(
        name=cut(f"t{record.trial:03d} · {point}", 60),
        status=STATUS[record.state],
        tags={k: v for k, v in tags.items() if v},
        params=searched,
        metrics={name(k): v for k, v in _metrics(record, summary)},
        curves={name(f"facts/{k}"): v for k, v in _curves(record.facts.to_json())},
        seconds=record.seconds,
    )


def _metrics(record: Record, summary: Summary) -> Iterator[tuple[str, float]]:
    """Yield values with units, intervals, gains relative to the baseline, and numeric facts."""
    for key, measurement in record.measurements.items():
        yield f"{key}_{measurement.unit}", measurement.value
        yield f"interval/{key}_{measurement.unit}_low", measurement.low
        yield f"interval/{key}_{measurement.unit}_high", measurement.high
    for key, measurement in record.test.items():
        yield f"test_{key}_{measurement.unit}", measurement.value
    for axis in summary.axes:
        if axis.name in record.measurements and summary.has_baseline:
            yield _relative(record, axis, summary.baseline)
    if record.facts.size is not None:
        yield SIZE, record.facts.size / 1e6
    yield "trial_seconds", record.seconds
    yield from ((f"facts/{k}", v) for k, v in _numbers(record.facts.to_json()))


def value_key(axis: Axis) -> str:
    """Return the metric that holds an objective's value."""
    return name(f"{axis.name}_{axis.unit}")


def _relative(record: Record, axis: Axis, baseline: Record) -> tuple[str, float]:
    """Return name and value of a speed-up, a ratio or a difference, relative to the baseline."""
    if not axis.positive:
        return f"{axis.name}_change", axis.value(record) - axis.value(baseline)
    if axis.is_time:
        return "speedup", gain(record, axis, baseline)
    return f"{axis.name}_ratio", axis.value(record) / axis.value(baseline)


def _numbers(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{key}", float(value)


def _curves(facts: Mapping[str, Any]) -> Iterator[tuple[str, list[float]]]:
    """Yield the facts that are series of numbers, thinned to at most CURVE_LENGTH of them."""
    for key, value in facts.items():
        if isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value):
            yield key, list(value[:: -(-len(value) // CURVE_LENGTH) or 1])


def study(summary: Summary) -> DesiredRun:
    """Return the parent run of a study; its curves have one value for each trial."""
    fixed = {k: str(v) for k, v in summary.baseline.point.items() if k not in summary.dimensions}
    sizes = [float(len(members)) for members in fronts(summary.records, summary.axes)]
    history = hypervolume_history(summary.records, summary.axes, summary.baseline)
    tags = {
        "study": quoted(summary.key),
        "role": "study",
        "mlflow.note.content": note(summary),
        "mlflow.source.name": cut(redact(summary.command), 500),
        "mlflow.source.type": "LOCAL",
    }
    return DesiredRun(
        name=cut(summary.name, 60),
        status="RUNNING",
        tags=tags,
        params=fixed,
        curves={"hypervolume": history, "front_size": sizes},
    )


def counts(summary: Summary) -> dict[str, float]:
    """Return the number of trials in each final state, as metrics of the finished study."""
    states = [record.state for record in summary.records]
    return {f"trials_{state}": float(states.count(state)) for state in get_args(State)}


def note(summary: Summary) -> str:
    """Return the description of a study in Markdown."""
    states = [
        f"{n:.0f} {state.removeprefix('trials_')}" for state, n in counts(summary).items() if n
    ]
    outcome = f"{len(summary.front)} on the front; trials: {', '.join(states)}."
    parts = [f"### {_markdown(title(summary))}", f"{_markdown(summary.goal)} {outcome}".strip()]
    parts.append(_picks(summary) if summary.picked else _markdown(" ".join(headline(summary))))
    folder = summary.run_folder or "RUN"
    parts += ["**Take one**", f"```\npython -m search export {folder} --pick knee --to DIR\n```"]
    parts += ["**Repeat it**", f"```\n{redact(summary.command).replace('`', '')}\n```"]
    limits = [f"- limit {name}: {words}" for name, words in summary.limits.items()]
    parts += ["**Limits**", _markdown("\n".join(limits), keep_lines=True)] if limits else []
    parts += ["**How far to trust this**", "\n".join(f"- {line}" for line in trust(summary))]
    parts.append("The chart is the artifact `report.html`; filter trials by `tags.front = 'true'`.")
    return cut("\n\n".join(part for part in parts if part), NOTE_LENGTH)


def _picks(summary: Summary) -> str:
    """Return the baseline and the picks as a Markdown table."""
    heads = ["", *(axis.name for axis in summary.axes), "runtime", "point", "trial"]
    rows = [_row("baseline", summary.baseline, summary)]
    rows += [_row(w.replace("-", " "), r, summary) for w, r in summary.picked.items()]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(word: str, record: Record, summary: Summary) -> list[str]:
    cells = [f"**{word}**"]
    for axis in summary.axes:
        value = quantity(axis.value(record), axis.unit)
        comparison = "" if word == "baseline" else f" ({change(record, axis, summary.baseline)})"
        cells.append(_markdown(value + comparison))
    point = "unchanged" if word == "baseline" else summary.short(record)
    return [*cells, _markdown(record.runtime), _markdown(point), str(record.trial)]


def _remark(record: Record, summary: Summary) -> str:
    """Return the description of a trial: the reason why it ended, or a comparison."""
    if record.reason:
        return _markdown(f"{record.state}: {record.reason}")
    if summary.role(record) != "front" or record.trial == summary.baseline.trial:
        return _markdown(record.note or "")
    changes = [f"{a.name} {change(record, a, summary.baseline)}" for a in summary.axes]
    folder = summary.run_folder or "RUN"
    command = f"```\npython -m search export {folder} --pick trial={record.trial} --to DIR\n```"
    text = f"On the front: {', '.join(changes)}. {record.note or ''}"
    return f"{_markdown(text)}\n\n{command}"


def _markdown(text: str, keep_lines: bool = False) -> str:
    """Return text escaped for Markdown: no tables, links, images or HTML."""
    flat = text if keep_lines else " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", redact(flat))


def name(text: str) -> str:
    """Return a metric's name in the characters that servers allow."""
    return re.sub(r"[^\w./ -]", "_", text.replace("samples/s", "samples_per_second"))[:240]


def cut(text: str, length: int) -> str:
    """Return at most `length` characters, ending in an ellipsis if text was removed."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def quoted(key: str) -> str:
    """Return a study's key in characters that a filter can quote."""
    return re.sub(r"[^\w.:/ -]", "-", key)
