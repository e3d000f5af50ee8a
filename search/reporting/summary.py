"""What is told of a study, wherever it is told: report, tracking server, console."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from search.reporting.wording import figures, quantity, short
from search.study import Axis, Record, feasible, gain, nearest, pick, picks
from spaces import Value

UNCONFIRMED = "The front has NOT been measured again: small differences may be noise."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """All that is told of a study, at any time during it."""

    key: str
    """Identifies the study for good: the same on resume."""
    name: str
    command: str
    """What the user can type to repeat it."""
    axes: tuple[Axis, ...]
    baseline: Record
    """The unchanged model: what gains are relative to."""
    records: tuple[Record, ...]
    """Every trial so far, the baseline included."""
    front: tuple[Record, ...]
    neutral: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    """Each dimension's value at which nothing changes."""
    searched: tuple[str, ...] = ()
    """Dimensions with more than one allowed value; empty means all."""
    goal: str = ""
    """What was asked for, in one sentence."""
    limits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The experiment's limits in words, by name: `accuracy.within` → `at most 0.05 below ...`."""
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Limits as values on an axis, by the axis' name: drawn as lines."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What it ran on: versions, processor, target."""
    run_folder: str = ""
    """As the user would type it."""
    confirmed: bool = False
    """Whether the front was measured again, interleaved with the baseline, after the search."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the searched dimensions, in the order of the space."""
        return self.searched or tuple(self.baseline.point)

    @property
    def grounded(self) -> bool:
        """Whether the baseline was measured, so that gains can be told."""
        return all(axis.name in self.baseline.measurements for axis in self.axes)

    @property
    def best(self) -> Record | None:
        """Return the record nearest to the limits, for when the front is empty."""
        return nearest(self.records)

    @functools.cached_property
    def picked(self) -> dict[str, Record]:
        """Return the member of the front that each of the usual words stands for."""
        if not self.front or not self.grounded:
            return {}
        axes = {axis.name for axis in self.axes}
        words = [word for word in picks(self.axes) if word not in axes]
        words += [] if len(words) > 1 else [axis.name for axis in self.axes]
        return {word: pick(self.front, word, self.axes, self.baseline) for word in words}

    def short(self, record: Record) -> str:
        """Return the record's point in short."""
        return short(record.point, self.neutral, taken_back=record.taken_back)

    def role(self, record: Record) -> str:
        """Return what the record turned out to be: front, dominated, over limit, or its state."""
        if any(member.trial == record.trial for member in self.front):
            return "front"
        if record.state != "complete":
            return record.state
        return "dominated" if feasible([record]) else "over limit"


def change(record: Record, axis: Axis, baseline: Record) -> str:
    """Return how the record compares with the baseline: `4.71x faster`, `-0.004`."""
    if not axis.positive:
        difference = axis.value(record) - axis.value(baseline)
        return "same" if abs(difference) < 5e-4 else f"{difference:+.3f}"
    factor = gain(record, axis, baseline)
    if 0.995 < factor < 1.005:
        return "same"
    better, worse = COMPARED.get(axis.name, ("better", "worse"))
    return f"{figures(factor)}x {better}" if factor >= 1 else f"{figures(1 / factor)}x {worse}"


COMPARED = {
    "latency": ("faster", "slower"),
    "throughput": ("the throughput", "less throughput"),
    "size": ("smaller", "larger"),
    "memory": ("less memory", "more memory"),
    "cost": ("cheaper", "dearer"),
}


def headline(summary: Summary) -> list[str]:
    """Return what came out in a few plain sentences: the first is the headline."""
    if not summary.grounded:
        return [f"The unchanged model could not be measured: {summary.baseline.reason}."]
    if not summary.front:
        return _nothing(summary)
    base = ", ".join(quantity(axis.value(summary.baseline), axis.unit) for axis in summary.axes)
    lines = [f"Unchanged model in {summary.baseline.runtime}: {base}."]
    by_trial: dict[int, list[str]] = {}
    for word, record in summary.picked.items():
        by_trial.setdefault(record.trial, []).append(word)
    members = {record.trial: record for record in summary.front}
    for trial, words in by_trial.items():
        record = members[trial]
        name = _joined([word.replace("-", " ") for word in words]).capitalize()
        lines.append(f"{name}: {_sentence(record, summary)}.")
    return lines


def title(summary: Summary) -> str:
    """Return the result in one line: what the knee of the front gains."""
    picked = summary.picked
    if not picked:
        return headline(summary)[0]
    record = picked.get("knee", next(iter(picked.values())))
    gains = [words_of(record, axis, summary.baseline) for axis in summary.axes]
    positive = [g for g, axis in zip(gains, summary.axes, strict=True) if axis.positive]
    rest = [g for g, axis in zip(gains, summary.axes, strict=True) if not axis.positive]
    return _joined([*positive, *rest])


def words_of(record: Record, axis: Axis, baseline: Record) -> str:
    """Return how the record compares on an axis, in words that stand alone."""
    words = change(record, axis, baseline)
    if words == "same":
        return f"{axis.name} unchanged"
    return words if axis.positive and axis.name in COMPARED else f"{axis.name} {words}"


def _sentence(record: Record, summary: Summary) -> str:
    gains = [words_of(record, axis, summary.baseline) for axis in summary.axes]
    return f"trial {record.trial} ({record.runtime}, {summary.short(record)}): {', '.join(gains)}"


def _nothing(summary: Summary) -> list[str]:
    complete = [r for r in summary.records if r.state == "complete"]
    record = summary.best
    if record is None or not complete:
        return ["No trial succeeded."]
    broken = [f"{name} by {figures(v)}" for name, v in record.limits.items() if v > 0]
    lines = [f"No trial satisfies every limit: {len(complete)} were measured."]
    lines.append(f"Nearest: {_sentence(record, summary)}; it misses {_joined(broken)}.")
    return lines


def _joined(words: Sequence[str]) -> str:
    """Return words as an enumeration: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
