"""Write the files of a report: report.html, pareto.png, front.csv and front.json."""

import html
import importlib.resources
from pathlib import Path
from typing import Any

import plotly.io
from plotly.offline import get_plotlyjs

from objectives.host import write_json, write_text
from search.records import Axis, Record, picks
from search.reporting import charts, html_tables, roofline
from search.reporting.effort import reuse, stages
from search.reporting.frame import front_frame
from search.reporting.layout import axis_ranges, plane_of, plotted
from search.reporting.parallel_chart import parallel_coordinates
from search.reporting.png import draw
from search.reporting.summary import UNCONFIRMED, Summary
from search.reporting.wording import SAME, change, headline, quantity, size_told, title, trust

STYLE = importlib.resources.files("search.reporting") / "style.css"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
"""Makes the browser itself refuse everything from a network."""


def write(folder: Path, summary: Summary) -> list[Path]:
    """Write the report, the picture and the tables into the run folder; return their paths."""
    names = ("report.html", "pareto.png", "front.csv", "front.json")
    page, picture, table, data = (folder / name for name in names)
    write_json(data, summary.to_json())
    write_text(table, front_frame(summary).to_csv(index=False))
    written = [table, data]
    if plotted(summary):
        draw(summary, picture)
        written.append(picture)
    write_text(page, render(summary))
    return [page, *written]


def render(summary: Summary) -> str:
    """Return the page: one file without network access, with every outside text escaped."""
    sections = [_opening(summary), _chart(summary), _members(summary), _steps(summary)]
    sections += [_progress(summary), _choices(summary), _roofline(summary)]
    sections += [_unfinished(summary), _trust(summary)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(summary.name)}</title><style>{STYLE.read_text()}</style>"
        f"<script>{get_plotlyjs()}</script></head><body>{''.join(sections)}</body></html>"
    )


def _opening(summary: Summary) -> str:
    built = sum(record.state != "infeasible" for record in summary.records)
    refused = len(summary.records) - built
    text = f"{built} trials, {len(summary.front)} on the front"
    counts = [
        text + (f"; {refused} point{'s' * (refused != 1)} could not be built." if refused else ".")
    ]
    goal = " ".join([summary.goal, *counts]).strip()
    sentences = headline(summary)
    lines = [] if summary.picked else sentences
    lines += [] if summary.confirmed else [UNCONFIRMED]
    notes = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    effort = " ".join(filter(None, [stages(summary.records), reuse(summary.records)]))
    notes += f'<p class="grey">{html.escape(effort)}</p>'
    heading = f"{html.escape(summary.name)}: {html.escape(title(summary))}"
    return (
        f'<h1>{heading}</h1><p class="grey">{html.escape(goal)}</p>{notes}'
        f'<div class="picks">{"".join(_cards(summary))}</div>'
        f'<p class="grey">Repeat it: <code>{html.escape(summary.command)}</code></p>'
    )


def _cards(summary: Summary) -> list[str]:
    """Return a card for the baseline and one for each picked record, with all its words."""
    if not summary.has_baseline:
        return []
    plane = plane_of(summary.axes)
    main = plane.x or plane.y
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
    result = quantity(main.value(record), main.unit)
    if words != "baseline" and main.positive:
        comparison = change(record, main, summary.baseline)
        result = result if comparison == SAME else comparison
    lines = [record.runtime if words == "baseline" else f"trial {record.trial}, {record.runtime}"]
    lines += [summary.short(record)]
    values = [f"{a.name} {quantity(a.value(record), a.unit)}" for a in summary.axes]
    values += [f"size {size[0]}"] if (size := size_told(record, summary)) else []
    lines += [", ".join(values)]
    body = "".join(f"<small>{html.escape(line)}</small>" for line in lines)
    name = html.escape(words.capitalize())
    return f'<div class="pick"><h3>{name}</h3><strong>{html.escape(result)}</strong>{body}</div>'


def _chart(summary: Summary) -> str:
    plane = plane_of(summary.axes)
    if not plotted(summary):
        return ""
    notes = ["Filled: on the front, with 95 % intervals. Faint: dominated. Cross: breaks a limit."]
    notes += [f"Marker area: {plane.size.name}."] if plane.size else []
    hidden = axis_ranges(summary, plane)[2]
    notes += [f"Poor trials outside the frame: {hidden}; double-click shows all."] if hidden else []
    return _section("Trade-offs", " ".join(notes), _plot(charts.tradeoffs(summary), "tradeoffs"))


def _progress(summary: Summary) -> str:
    if not plotted(summary):
        return ""
    explanation = (
        "Hypervolume: how much of the space the front dominates. The unchanged model alone has 1, "
        "measured from a point one step worse on every axis (factor 2, or a tenth of its score)."
    )
    return _section("Progress", explanation, _plot(charts.progress(summary), "progress"))


def _choices(summary: Summary) -> str:
    figure = parallel_coordinates(summary) if plotted(summary) else None
    if figure is None:
        return ""
    explanation = (
        "Each line is a trial, coloured if on the front. Results are better towards the top."
    )
    return _section("What was chosen, what came out", explanation, _plot(figure, "choices"))


def _roofline(summary: Summary) -> str:
    points = roofline.attained(summary)
    if not points:
        return ""
    explanation = (
        "Lines: the fastest matrix product and the fastest copy of as many bytes, each the best of "
        "several bursts on this host. Numbers: trial, and its speed as a share of what they allow."
    )
    intro = " ".join(filter(None, [explanation, roofline.exceeding(points)]))
    plot = _plot(roofline.chart(summary, points), "roofline")
    return _section("How near to this host's ceilings", intro, plot)


def _section(heading: str, intro: str, body: str) -> str:
    return f'<h2>{html.escape(heading)}</h2><p class="grey">{html.escape(intro)}</p>{body}'


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
    intro = "The baseline, then the front. Hover a number for its 95 % interval."
    if any(r.facts.percentiles for r in summary.front):
        intro += (
            " Median, p90 and p99 are those of single batches timed in the search, at its pace."
        )
    command = f"python -m search export {summary.run_folder or 'RUN'} --pick trial=N --to DIR"
    export = f'<p class="grey">Take one: <code>{html.escape(command)}</code></p>'
    return _section("The front", intro, export + html_tables.members(summary))


def _steps(summary: Summary) -> str:
    table = html_tables.steps(summary)
    intro = (
        "From the baseline to each pick, one change at a time, without recovery training; each was "
        "measured in turns with the one before it. Small print: 95 % intervals."
    )
    return _section("Which change bought what", intro, table) if table else ""


def _unfinished(summary: Summary) -> str:
    table = html_tables.unfinished(summary)
    intro = "Trials that were stopped early, could not be built, failed or break a limit."
    return _section("Not on offer", intro, table) if table else ""


def _trust(summary: Summary) -> str:
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in trust(summary))
    limits = [(f"limit {name}", words) for name, words in summary.limits.items()]
    table = html_tables.facts([*limits, *summary.environment.items()])
    return f"<h2>How far to trust this</h2><ul>{lines}</ul>{table}"
