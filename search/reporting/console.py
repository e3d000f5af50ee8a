"""Progress of a search on standard error: live on a terminal, as plain lines elsewhere."""

import math
import time
from pathlib import Path

from rich.console import Console as Terminal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.experiment import Experiment
from search.records import Record
from search.reporting.effort import reuse, stages
from search.reporting.summary import UNCONFIRMED, Summary
from search.reporting.wording import axis_change, doubts, has_size, quantity, size_told, test_cell
from search.study import PendingTrial, Study
from spaces import Space

MARKS = {"complete": "✓", "pruned": "-", "infeasible": "∅", "failed": "✗"}
LEGEND = (
    "★ on the front so far  ✓ measured  - stopped  ∅ cannot run  ✗ failed  "
    "8/32 bit: weights/activations  T4: temperature"
)
BUSY = 0.25
"""Share of the cores used by other processes above which the user is told."""
QUIET_SECONDS = 15.0
"""Shortest time between two plain lines about a stage."""


class Console:
    """Prints the progress of a search to standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._terminal = Terminal(stderr=True, quiet=quiet, highlight=False)
        self._live: Live | None = None
        self._start = time.monotonic()
        self._last_line_at = 0.0
        self._status = Text("")
        self._space: Space | None = None
        self._total, self._paid, self._failed, self._front_size = 0, 0, 0, 0
        self._paid_before, self._best_gains = 0, ""
        self._budget = math.inf
        self._names: dict[int, str] = {}
        self._stages: dict[int, str] = {}
        self._disturbed = False

    def begin(self, experiment: Experiment, study: Study, folder: Path) -> None:
        """Print the search space, the budget and the run folder, and start the live view."""
        self._space, self._total = experiment.space, experiment.trials
        self._start, self._paid, self._paid_before = time.monotonic(), study.paid, study.paid
        self._budget = math.inf if experiment.time is None else experiment.time
        size = experiment.space.size()
        points = f"{size:,.0f} points" if size != float("inf") else "a continuous space"
        self.say(
            f"{experiment.name}: {points} in {len(experiment.space.dimensions())} dimensions, "
            f"{experiment.trials} trials, kept in {folder}"
        )
        for notice in experiment.notices:
            self.say(f"note: {notice}")
        if experiment.time is not None:
            self.say(
                f"no trial begins after {_clock(experiment.time)}; the last one then ends, and "
                "measuring and explaining the front comes on top"
            )
        if study.paid:
            self.say(f"continuing after {study.paid} trials")
        self.say(LEGEND)
        if self._terminal.is_terminal:
            self._live = Live(self._status, console=self._terminal, transient=True)
            self._live.start()

    def say(self, text: str) -> None:
        """Print one line."""
        self._terminal.print(text, soft_wrap=True, markup=False)

    def started(self, pending: PendingTrial) -> None:
        """Show a trial that has started."""
        assert self._space is not None
        runtime, point = self._space.plan(pending.point).runtime, self._space.short(pending.point)
        self._names[pending.trial] = f"trial {pending.trial}: {runtime} {point}"
        self._last_line_at = time.monotonic()
        self.stage(pending, "starting", 0, 0, "")

    def stage(
        self, pending: PendingTrial | None, stage: str, done: int, of: int, detail: str
    ) -> None:
        """Show the stage of a running trial, or of the confirmation if `pending` is None."""
        count = f" {done}/{of}" if of else ""
        name = self._names.get(pending.trial, "") if pending else "confirming"
        self._stages[pending.trial if pending else -1] = (
            f"{name} · {stage}{count} {detail}".rstrip()
        )
        if self._live:
            self._live.update(Text("\n".join([self._status_line(), *self._stages.values()])))
        elif of and time.monotonic() - self._last_line_at > QUIET_SECONDS:
            self._last_line_at = time.monotonic()
            prefix = f"trial {pending.trial} " if pending and len(self._stages) > 1 else ""
            self.say(f"    {prefix}{stage}{count} {detail}".rstrip())

    def trial(self, record: Record, study: Study, summary: Summary | None) -> None:
        """Print the line of a finished trial."""
        self._stages.pop(record.trial, None)
        self._paid, self._front_size = study.paid, len(study.front())
        self._failed += record.state == "failed"
        self._best_gains = _best_gains(summary) if summary else ""
        on_front = summary is not None and any(r.trial == record.trial for r in summary.front)
        mark = "★" if on_front else MARKS[record.state]
        point = study.experiment.space.short(record.point)
        point += " (taken back)" if record.facts.taken_back else ""
        outcome = _outcome(record, summary)
        self.say(
            f"{self._paid:>3}/{self._total} {mark} {f't{record.trial}':<4} {record.runtime:<11} "
            f"{point:<44} {outcome}  {record.seconds:.0f} s"
        )
        self._warn_of_others(record)

    def _warn_of_others(self, record: Record) -> None:
        """Print a note, once, if other processes use the cores on which times are measured."""
        share = (record.facts.conditions or {}).get("others", 0.0)
        if share > BUSY and not self._disturbed:
            self._disturbed = True
            self.say(
                f"note: other processes used {share:.0%} of the cores when trial {record.trial} "
                "was timed; speeds are less certain than on an idle machine"
            )

    def confirming(self, count: int) -> None:
        """Print that the front is being measured again."""
        self._stages.clear()
        self.say(f"confirming {count} artifacts in turns with the baseline, then on test data")

    def finish(self, summary: Summary, folder: Path, address: str | None) -> None:
        """End the live view; print the locations of the results, and further commands."""
        self.close()
        self.say(stages(summary.records))
        if saved := reuse(summary.records):
            self.say(saved)
        self.say(f"report   {folder / 'report.html'}   picture  {folder / 'pareto.png'}")
        if address:
            self.say(f"mlflow   {address}")
        self.say(f"next     python -m search ui {folder}")
        self.say(f"         python -m search export {folder} --pick knee --to model")
        self.say(f"         python -m search resume {folder} --trials {2 * self._total}")

    def close(self) -> None:
        """End the live view."""
        if self._live:
            self._live.stop()
            self._live = None

    def _status_line(self) -> str:
        elapsed = time.monotonic() - self._start
        done = self._paid - self._paid_before
        remaining = elapsed / done * (self._total - self._paid) if done else 0.0
        remaining = min(remaining, max(0.0, self._budget - elapsed))
        time_left = f", about {_clock(remaining)} left" if done else ""
        failed = f", {self._failed} failed" if self._failed else ""
        front = f"{self._front_size} on the front"
        return f"{self._paid}/{self._total} done{failed}, {front}{time_left}{self._best_gains}"


def _best_gains(summary: Summary) -> str:
    """Return the gains of the fastest member of the front, or of the first usual pick."""
    picked = summary.picked
    timed = next((a for a in summary.axes if a.is_time), None)
    word = next((w for w in picked if timed and w == timed.superlative), next(iter(picked), None))
    if word is None:
        return ""
    gains = ", ".join(axis_change(picked[word], axis, summary.baseline) for axis in summary.axes)
    return f", {word.replace('-', ' ')} so far: {gains}"


def _outcome(record: Record, summary: Summary | None) -> str:
    """Return the measurements of a finished trial, or the reason why there are none."""
    if record.state != "complete":
        return f"{record.state}: {record.reason}"
    told = [quantity(m.value, m.unit) for m in record.measurements.values()]
    told += [size[0]] if summary and (size := size_told(record, summary)) else []
    values = "  ".join(told)
    if summary and not record.satisfied:
        values += "  over limit"
    return values


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def front_table(summary: Summary, width: int | None = None) -> str:
    """Return the front as a table in plain text: the baseline first, then each member."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", justify="right")
    table.add_column("runtime")
    for axis in summary.axes:
        table.add_column(axis.name, justify="right")
    if has_size(summary):
        table.add_column("size", justify="right")
    timed = next((a for a in summary.axes if a.is_time), None)
    if timed:
        table.add_column("speed-up", justify="right")
    table.add_column("test", justify="right")
    table.add_column("point")
    members = [r for r in summary.front if r.trial != summary.baseline.trial]
    for record in (summary.baseline, *members):
        name = "baseline" if record is summary.baseline else str(record.trial)
        cells = [name, record.runtime]
        cells += [quantity(axis.value(record), axis.unit) for axis in summary.axes]
        if has_size(summary):
            cells.append((size_told(record, summary) or ("-",))[0])
        if timed:
            cells.append(f"{timed.value(summary.baseline) / timed.value(record):.2f}x")
        cells.append(", ".join(test_cell(record, n, summary) for n in record.test) or "-")
        table.add_row(*cells, summary.short(record))
    terminal = Terminal(width=width or 150, no_color=True, highlight=False)
    with terminal.capture() as capture:
        terminal.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    lines += doubts(summary).values()
    return "\n".join(lines if summary.confirmed else [*lines, UNCONFIRMED])
