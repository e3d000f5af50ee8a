"""Tables of the HTML report, with every text escaped."""

import html
from collections.abc import Sequence

from objectives import Direction, Ratio
from search.records import Axis, Record
from search.reporting.summary import Summary
from search.reporting.wording import (
    change,
    doubts,
    figures,
    has_size,
    interval,
    quantity,
    size_told,
    test_cell,
)

PERCENTILES = {"50": "Median", "90": "p90", "99": "p99"}
"""Headings of the percentiles of single runs, by their names in a record's facts."""


def members(summary: Summary) -> str:
    """Return the table of the baseline and the front, fastest first."""
    tested = sorted({name for r in summary.front for name in r.test})
    heads = ["Trial", "Runtime", "Point"]
    numbers = [axis.name.capitalize() for axis in summary.axes]
    numbers += ["Size"] if has_size(summary) else []
    if any(r.facts.percentiles for r in (summary.baseline, *summary.front)):
        numbers += PERCENTILES.values()
    numbers += [f"Test {n}" for n in tested]
    order = [*summary.axes[1:], summary.axes[0]]
    ranked = sorted(summary.front, key=lambda r: [axis.loss(r) for axis in order])
    others = [r for r in ranked if r.trial != summary.baseline.trial]
    has_percentiles = PERCENTILES["50"] in numbers
    rows = [
        _member(r, summary, tested, has_percentiles=has_percentiles)
        for r in (summary.baseline, *others)
    ]
    return _table(heads, numbers, rows)


def _member(
    record: Record, summary: Summary, tested: Sequence[str], *, has_percentiles: bool
) -> str:
    is_baseline = record.trial == summary.baseline.trial
    cells = [_cell(str(record.trial)), _cell(record.runtime, "word")]
    execution = record.facts.execution
    notes = [record.note, doubts(summary).get(record.trial)]
    notes += [execution.why() if execution else None]
    small_print = " ".join(filter(None, notes))
    cells.append(_point("baseline" if is_baseline else summary.short(record), small_print))
    cells += [_value(record, axis, summary) for axis in summary.axes]
    if has_size(summary):
        cells.append(_size(record, summary))
    if has_percentiles:
        cells += _percentiles(record)
    cells += [
        _cell(test_cell(record, name, summary) if name in record.test else "", "number")
        for name in tested
    ]
    return f'<tr class="{"baseline" if is_baseline else "member"}">{"".join(cells)}</tr>'


def _percentiles(record: Record) -> list[str]:
    """Return the cells of a record's percentiles, a dash where there were too few runs."""
    known = record.facts.percentiles or {}
    return [
        _cell(quantity(known[name], "ms") if name in known else "-", "number")
        for name in PERCENTILES
    ]


def _point(title: str, note: str) -> str:
    """Return a table cell with a point and, in small print, the note about it."""
    small_print = f"<br><small>{html.escape(note)}</small>" if note else ""
    return f"<td>{html.escape(title)}{small_print}</td>"


def _value(record: Record, axis: Axis, summary: Summary) -> str:
    measurement = record.measurements[axis.name]
    comparison = (
        "" if record.trial == summary.baseline.trial else change(record, axis, summary.baseline)
    )
    span = html.escape(interval(measurement))
    shown = html.escape(quantity(measurement.value, measurement.unit))
    note = f"<br><small>{html.escape(comparison)}</small>" if comparison else ""
    return f'<td class="number" title="{span}">{shown}{note}</td>'


def _size(record: Record, summary: Summary) -> str:
    """Return a cell with the bytes of a record's files, in a table of other objectives."""
    value, comparison = size_told(record, summary) or ("", "")
    note = f"<br><small>{html.escape(comparison)}</small>" if comparison else ""
    return f'<td class="number">{html.escape(value)}{note}</td>'


def steps(summary: Summary) -> str:
    """Return the table of the steps from the baseline to each pick; empty if there are none."""
    words: dict[int, list[str]] = {}
    for word, record in summary.picked.items():
        words.setdefault(record.trial, []).append(word.replace("-", " "))
    members = {record.trial: record for record in summary.front}
    rows = []
    for trial, names in words.items():
        taken = members[trial].facts.steps or ()
        for number, step in enumerate(taken):
            pick = f"{', '.join(names).capitalize()} (trial {trial})" if number == 0 else ""
            cells = [_cell(pick), _cell(step.change), _cell(step.objective, "word")]
            if step.ratio is None:
                cells += [_cell(f"not measured: {step.reason}")]
            else:
                cells += [_ratio(step.ratio, rising=_rising(step.objective, summary))]
            rows.append(f"<tr>{''.join(cells)}</tr>")
    return _table(["Pick", "Change", "Objective"], ["Gain"], rows) if rows else ""


def _rising(objective: str, summary: Summary) -> bool:
    return any(a.name == objective and a.direction is Direction.MAXIMIZE for a in summary.axes)


def _ratio(ratio: Ratio, *, rising: bool) -> str:
    """Return a cell with the factor by which a value became better, and its 95 % interval."""
    value, low, high = ratio.value, ratio.low, ratio.high
    if not rising:
        value, low, high = 1 / value, 1 / high, 1 / low
    span = f"{figures(low)} to {figures(high)}"
    return f'<td class="number">{figures(value)}x<br><small>{span}</small></td>'


def unfinished(summary: Summary) -> str:
    """Return the table of trials that are not complete or break a limit, with the reasons."""
    rows = []
    for record in summary.records:
        reason = record.reason or broken(record)
        if reason:
            state = record.state if record.state != "complete" else "over limit"
            cells = [_cell(str(record.trial)), _cell(state, "word"), _cell(record.runtime, "word")]
            cells += [_cell(summary.short(record)), _cell(reason)]
            rows.append(f"<tr>{''.join(cells)}</tr>")
    return _table(["Trial", "State", "Runtime", "Point", "Reason"], [], rows) if rows else ""


def broken(record: Record) -> str:
    """Return the limits that a record breaks, with the violations; empty if there are none."""
    return "; ".join(f"{name} missed by {v:.3g}" for name, v in record.limits.items() if v > 0)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return names and values as a table without a heading."""
    rows = [f"<tr>{_cell(name, 'word')}{_cell(value)}</tr>" for name, value in pairs]
    return _table([], [], rows) if rows else ""


def _cell(text: str, kind: str = "") -> str:
    return (
        f'<td class="{kind}">{html.escape(text)}</td>' if kind else f"<td>{html.escape(text)}</td>"
    )


def _table(heads: Sequence[str], numbers: Sequence[str], rows: Sequence[str]) -> str:
    top = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    top += "".join(f'<th class="number">{html.escape(h)}</th>' for h in numbers)
    head = f"<thead><tr>{top}</tr></thead>" if top else ""
    return f'<div class="table"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'
