"""What the user sees while a search runs: live on a terminal, plain lines elsewhere."""

import time
from pathlib import Path

from rich.console import Console as Terminal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.experiment import Experiment
from search.records import Record
from search.reporting.summary import UNCONFIRMED, Summary
from search.reporting.wording import quantity, words_of
from search.study import PendingTrial, Study
from spaces import Space

MARKS = {"complete": "✓", "pruned": "-", "infeasible": "∅", "failed": "✗"}
LEGEND = (
    "★ on the front so far  ✓ measured  - stopped  ∅ cannot run  ✗ failed  "
    "8/32 bit: weights/activations  T4: temperature"
)
BUSY = 0.25
"""Share of the cores in use by others from which on it is said."""
QUIET_SECONDS = 15.0
"""Plain output says nothing of a stage more often than this."""


class Console:
    """Progress on standard error; results are printed elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._terminal = Terminal(stderr=True, quiet=quiet, highlight=False)
        self._live: Live | None = None
        self._start = time.monotonic()
        self._said = 0.0
        self._status = Text("")
        self._space: Space | None = None
        self._total, self._paid, self._failed, self._members = 0, 0, 0, 0
        self._first, self._best = 0, ""
        self._names: dict[int, str] = {}
        self._now: dict[int, str] = {}
        self._disturbed = False

    def begin(self, experiment: Experiment, study: Study, folder: Path) -> None:
        """Say what is searched and where it is kept."""
        self._space, self._total = experiment.space, experiment.trials
        self._start, self._paid, self._first = time.monotonic(), study.paid, study.paid
        size = experiment.space.size()
        points = f"{size:,.0f} points" if size != float("inf") else "a continuous space"
        self.say(
            f"{experiment.name}: {points} in {len(experiment.space.dimensions())} dimensions, "
            f"{experiment.trials} trials, kept in {folder}"
        )
        for notice in experiment.notices:
            self.say(f"note: {notice}")
        if study.paid:
            self.say(f"continuing after {study.paid} trials")
        self.say(LEGEND)
        if self._terminal.is_terminal:
            self._live = Live(self._status, console=self._terminal, transient=True)
            self._live.start()

    def say(self, text: str) -> None:
        """Print one line."""
        self._terminal.print(text, soft_wrap=True, markup=False)

    def started(self, asked: PendingTrial) -> None:
        """Say which point is under way."""
        assert self._space is not None
        runtime, point = self._space.plan(asked.point).runtime, self._space.short(asked.point)
        self._names[asked.trial] = f"trial {asked.trial}: {runtime} {point}"
        self._said = time.monotonic()
        self.stage(asked, "starting", 0, 0, "")

    def stage(
        self, asked: PendingTrial | None, stage: str, done: int, of: int, detail: str
    ) -> None:
        """Show the stage of a trial under way, or of the confirmation."""
        count = f" {done}/{of}" if of else ""
        name = self._names.get(asked.trial, "") if asked else "confirming"
        self._now[asked.trial if asked else -1] = f"{name} · {stage}{count} {detail}".rstrip()
        if self._live:
            self._live.update(Text("\n".join([self._head(), *self._now.values()])))
        elif of and time.monotonic() - self._said > QUIET_SECONDS:
            self._said = time.monotonic()
            which = f"trial {asked.trial} " if asked and len(self._now) > 1 else ""
            self.say(f"    {which}{stage}{count} {detail}".rstrip())

    def trial(self, record: Record, study: Study, summary: Summary | None) -> None:
        """Print the line of a finished trial."""
        self._now.pop(record.trial, None)
        self._paid, self._members = study.paid, len(study.front())
        self._failed += record.state == "failed"
        self._best = _best(summary) if summary else ""
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
        """Say once that other processes use the cores on which times are taken."""
        share = (record.facts.conditions or {}).get("others", 0.0)
        if share > BUSY and not self._disturbed:
            self._disturbed = True
            self.say(
                f"note: other processes used {share:.0%} of the cores when trial {record.trial} "
                "was timed; speeds are less certain than on an idle machine"
            )

    def confirming(self, count: int) -> None:
        """Say that the front is being measured again."""
        self._now.clear()
        self.say(f"confirming {count} artifacts in turns with the baseline, then on test data")

    def finish(self, summary: Summary, folder: Path, seen: str | None) -> None:
        """End the live view and say where everything lies and what can be done next."""
        self.close()
        self.say(f"report   {folder / 'report.html'}   picture  {folder / 'pareto.png'}")
        if seen:
            self.say(f"mlflow   {seen}")
        self.say(f"next     python -m search ui {folder}")
        self.say(f"         python -m search export {folder} --pick knee --to model")
        self.say(f"         python -m search resume {folder} --trials {2 * self._total}")

    def close(self) -> None:
        """End the live view."""
        if self._live:
            self._live.stop()
            self._live = None

    def _head(self) -> str:
        elapsed = time.monotonic() - self._start
        done = self._paid - self._first
        remaining = elapsed / done * (self._total - self._paid) if done else 0.0
        left = f", about {_clock(remaining)} left" if done else ""
        failed = f", {self._failed} failed" if self._failed else ""
        front = f"{self._members} on the front"
        return f"{self._paid}/{self._total} done{failed}, {front}{left}{self._best}"


def _best(summary: Summary) -> str:
    """Return what the fastest member of the front gains, or the first of the usual picks."""
    picked = summary.picked
    timed = next((a for a in summary.axes if a.is_time), None)
    word = next((w for w in picked if timed and w == timed.superlative), next(iter(picked), None))
    if word is None:
        return ""
    gains = ", ".join(words_of(picked[word], axis, summary.baseline) for axis in summary.axes)
    return f", {word.replace('-', ' ')} so far: {gains}"


def _outcome(record: Record, summary: Summary | None) -> str:
    """Return a finished trial's values, or its reason."""
    if record.state != "complete":
        return f"{record.state}: {record.reason}"
    values = "  ".join(quantity(m.value, m.unit) for m in record.measurements.values())
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
        if timed:
            cells.append(f"{timed.value(summary.baseline) / timed.value(record):.2f}x")
        cells.append(", ".join(quantity(m.value, m.unit) for m in record.test.values()) or "-")
        table.add_row(*cells, summary.short(record))
    terminal = Terminal(width=width or 150, no_color=True, highlight=False)
    with terminal.capture() as capture:
        terminal.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join(lines if summary.confirmed else [*lines, UNCONFIRMED])
