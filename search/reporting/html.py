"""What a study leaves for people to read: report.html, pareto.png, front.csv and front.json."""

import html
import json
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.io
from plotly.offline import get_plotlyjs

from search.evaluation import PACE
from search.reporting import charts, html_tables
from search.reporting.layout import frame, placed, plane
from search.reporting.parallel_chart import choices
from search.reporting.png import draw
from search.reporting.summary import UNCONFIRMED, Summary, change, headline, title
from search.reporting.wording import quantity
from search.study import Axis, Record, gain, picks

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --grey: #616e7c; --line: #e4e7eb; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 40px 32px 64px; color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 44px 0 6px; }
p { margin: 6px 0; max-width: 60em; } .grey { color: var(--grey); }
code { font: 13px ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: #f5f7fa;
  padding: 2px 6px; border-radius: 4px; }
.picks { display: grid; grid-template-columns: repeat(auto-fit, minmax(185px, 1fr)); gap: 14px;
  margin: 26px 0 8px; }
.pick { border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.pick h3 { margin: 0; font-size: 13px; color: var(--grey); font-weight: 600; }
.pick strong { display: block; font-size: 19px; line-height: 1.3; margin: 4px 0; }
.pick small { display: block; color: var(--grey); font-size: 13px; line-height: 1.45; }
.table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; margin-top: 10px;
  font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--grey); font-size: 13px; white-space: nowrap; }
th, td { padding: 7px 16px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; } td.word { white-space: nowrap; }
tr.baseline td { background: #f5f7fa; } td small { color: var(--grey); white-space: nowrap; }
ul { padding-left: 1.2em; max-width: 60em; } li { margin: 4px 0; }
"""
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
"""The browser itself refuses everything that would come from a network."""


def write(folder: Path, summary: Summary) -> list[Path]:
    """Write the report, the picture and the tables into the run folder; return their paths."""
    names = ("report.html", "pareto.png", "front.csv", "front.json")
    page, picture, table, data = (folder / name for name in names)
    _replace(data, json.dumps(front_json(summary), indent=1, allow_nan=False))
    _replace(table, front_table(summary).to_csv(index=False))
    written = [table, data]
    if placed(summary):
        draw(summary, picture)
        written.append(picture)
    _replace(page, render(summary))
    return [page, *written]


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def front_json(summary: Summary) -> dict[str, Any]:
    """Return the front and the baseline as plain data, and whether they were confirmed."""
    members = [record.to_json() for record in summary.front]
    return {
        "confirmed": summary.confirmed,
        "baseline": summary.baseline.to_json(),
        "front": members,
    }


def front_table(summary: Summary) -> Any:
    """Return the front as a data frame, one row a member, units in the column names."""
    words: dict[int, list[str]] = {}
    for word, record in summary.picked.items():
        words.setdefault(record.trial, []).append(word)
    members = summary.front if summary.grounded else ()
    rows = [_row(r, summary, " ".join(words.get(r.trial, []))) for r in members]
    return pd.DataFrame(rows)


def _row(record: Record, summary: Summary, picked: str) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": record.trial, "pick": picked, "runtime": record.runtime}
    for axis in summary.axes:
        found = record.measurements[axis.name]
        column = f"{axis.name}_{axis.unit}"
        row |= {column: found.value, f"{column}_low": found.low, f"{column}_high": found.high}
        if axis.positive:
            row[f"{axis.name}_gain"] = gain(record, axis, summary.baseline)
    row |= {f"test_{name}_{m.unit}": m.value for name, m in record.test.items()}
    row |= {"artifact": record.artifact or "", **record.point}
    return {safe(k): safe(v) if isinstance(v, str) else v for k, v in row.items()}


def safe(cell: str) -> str:
    """Return text that no spreadsheet takes for a formula: a quote before = + - @."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def render(summary: Summary) -> str:
    """Return the page: one file, no network, every text from outside escaped."""
    sections = [_opening(summary), _chart(summary), _members(summary), _progress(summary)]
    sections += [_choices(summary), _unfinished(summary), _trust(summary)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(summary.name)}</title><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body>{''.join(sections)}</body></html>"
    )


def _opening(summary: Summary) -> str:
    built = sum(record.state != "infeasible" for record in summary.records)
    refused = len(summary.records) - built
    told = f"{built} trials, {len(summary.front)} on the front"
    counts = [
        told + (f"; {refused} point{'s' * (refused != 1)} could not be built." if refused else ".")
    ]
    goal = " ".join([summary.goal, *counts]).strip()
    said = headline(summary)
    lines = [] if summary.picked else said
    lines += [] if summary.confirmed else [UNCONFIRMED]
    notes = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    big = f"{html.escape(summary.name)}: {html.escape(title(summary))}"
    return (
        f'<h1>{big}</h1><p class="grey">{html.escape(goal)}</p>{notes}'
        f'<div class="picks">{"".join(_cards(summary))}</div>'
        f'<p class="grey">Repeat it: <code>{html.escape(summary.command)}</code></p>'
    )


def _cards(summary: Summary) -> list[str]:
    """Return a card for the baseline and one for each picked record, with all its words."""
    if not summary.grounded:
        return []
    here = plane(summary.axes)
    main = here.x or here.y
    words: dict[int, list[str]] = {}
    for word, record in summary.picked.items():
        words.setdefault(record.trial, []).append(word)
    members = {r.trial: r for r in summary.front}
    cards = [_card("baseline", summary.baseline, main, summary)]
    for trial, names in words.items():
        axis = picks(summary.axes)[names[0]] or main
        text = ", ".join(name.replace("-", " ") for name in names)
        cards.append(_card(text, members[trial], axis, summary))
    return cards


def _card(words: str, record: Record, main: Axis, summary: Summary) -> str:
    big = quantity(main.value(record), main.unit)
    if words != "baseline" and main.positive:
        told = change(record, main, summary.baseline)
        big = big if told == "same" else told
    lines = [record.runtime if words == "baseline" else f"trial {record.trial}, {record.runtime}"]
    lines += [summary.short(record)]
    lines += [", ".join(f"{a.name} {quantity(a.value(record), a.unit)}" for a in summary.axes)]
    body = "".join(f"<small>{html.escape(line)}</small>" for line in lines)
    name = html.escape(words.capitalize())
    return f'<div class="pick"><h3>{name}</h3><strong>{html.escape(big)}</strong>{body}</div>'


def _chart(summary: Summary) -> str:
    here = plane(summary.axes)
    if not placed(summary):
        return ""
    said = ["Filled: on the front, with 95 % intervals. Faint: dominated. Cross: breaks a limit."]
    said += [f"Marker area: {here.size.name}."] if here.size else []
    hidden = frame(summary, here)[2]
    said += (
        [f"{hidden} poor trials lie outside the frame; double-click shows all."] if hidden else []
    )
    return _section("Trade-offs", " ".join(said), _plot(charts.tradeoffs(summary), "tradeoffs"))


def _progress(summary: Summary) -> str:
    if not placed(summary):
        return ""
    said = (
        "Hypervolume: how much of the space the front dominates. The unchanged model alone has 1, "
        "measured from a point one step worse on every axis (factor 2, or a tenth of its score)."
    )
    return _section("Progress", said, _plot(charts.progress(summary), "progress"))


def _choices(summary: Summary) -> str:
    figure = choices(summary) if placed(summary) else None
    if figure is None:
        return ""
    said = "Each line is a trial, coloured if on the front. Results are better towards the top."
    return _section("What was chosen, what came out", said, _plot(figure, "choices"))


def _section(heading: str, said: str, body: str) -> str:
    return f'<h2>{html.escape(heading)}</h2><p class="grey">{html.escape(said)}</p>{body}'


def _plot(figure: Any, name: str) -> str:
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    return str(
        plotly.io.to_html(
            figure, include_plotlyjs=False, full_html=False, div_id=name, config=config
        )
    )


def _members(summary: Summary) -> str:
    if not summary.picked:
        return ""
    said = "The baseline, then the front. Hover a number for its 95 % interval."
    command = f"python -m search export {summary.run_folder or 'RUN'} --pick trial=N --to DIR"
    export = f'<p class="grey">Take one: <code>{html.escape(command)}</code></p>'
    return _section("The front", said, export + html_tables.members(summary))


def _unfinished(summary: Summary) -> str:
    table = html_tables.unfinished(summary)
    said = "Trials that were stopped early, could not be built, failed or break a limit."
    return _section("Not on offer", said, table) if table else ""


def _trust(summary: Summary) -> str:
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in trust(summary))
    limits = [(f"limit {name}", words) for name, words in summary.limits.items()]
    table = html_tables.facts([*limits, *summary.environment.items()])
    return f"<h2>How far to trust this</h2><ul>{lines}</ul>{table}"


def trust(summary: Summary) -> list[str]:
    """Return what stands behind the numbers, and what does not."""
    again = (
        "The front was measured again after the search, interleaved with the baseline."
        if summary.confirmed
        else UNCONFIRMED
    )
    if summary.confirmed and any(PACE in r.facts for r in summary.front):
        again += (
            " Not all fitted in one group: times of the others are told at the baseline's pace in "
            "the first, so that each ratio to it is the one that was seen in turns."
        )
    split = (
        "The validation split guided the search; the test split was scored once, for the front."
        if any(r.test for r in summary.front)
        else "The validation split guided the search; the test split has not been scored."
    )
    return [
        "Every number was measured on the exported file, loaded by its own runtime.",
        again,
        split,
        "Times hold for the target and machine below, not for others: measure there again.",
    ]
