"""The tables of the report, as HTML with every text escaped."""

import html
from collections.abc import Sequence

from search.records import Axis, Record
from search.reporting.summary import Summary
from search.reporting.wording import change, interval, quantity


def members(summary: Summary) -> str:
    """Return the table of the baseline and the front, fastest first."""
    tested = sorted({name for r in summary.front for name in r.test})
    heads = ["Trial", "Runtime", "Point"]
    numbers = [axis.name.capitalize() for axis in summary.axes] + [f"Test {n}" for n in tested]
    order = [*summary.axes[1:], summary.axes[0]]
    ranked = sorted(summary.front, key=lambda r: [axis.loss(r) for axis in order])
    others = [r for r in ranked if r.trial != summary.baseline.trial]
    rows = [_member(summary.baseline, summary, tested)]
    return _table(heads, numbers, rows + [_member(r, summary, tested) for r in others])


def _member(record: Record, summary: Summary, tested: Sequence[str]) -> str:
    first = record.trial == summary.baseline.trial
    cells = [_cell(str(record.trial)), _cell(record.runtime, "word")]
    cells.append(_point("baseline" if first else summary.short(record), record.note))
    cells += [_value(record, axis, summary) for axis in summary.axes]
    for name in tested:
        found = record.test.get(name)
        cells.append(_cell(quantity(found.value, found.unit) if found else "", "number"))
    return f'<tr class="{"baseline" if first else "member"}">{"".join(cells)}</tr>'


def _point(title: str, note: str | None) -> str:
    """Return a cell with what was chosen, and what is to be known of it in small."""
    said = f"<br><small>{html.escape(note)}</small>" if note else ""
    return f"<td>{html.escape(title)}{said}</td>"


def _value(record: Record, axis: Axis, summary: Summary) -> str:
    found = record.measurements[axis.name]
    told = "" if record.trial == summary.baseline.trial else change(record, axis, summary.baseline)
    span = html.escape(interval(found))
    shown = html.escape(quantity(found.value, found.unit))
    note = f"<br><small>{html.escape(told)}</small>" if told else ""
    return f'<td class="number" title="{span}">{shown}{note}</td>'


def unfinished(summary: Summary) -> str:
    """Return the table of trials that are not complete or break a limit, with their reasons."""
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
    """Return which limits the record breaks and by how much; empty if none."""
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
