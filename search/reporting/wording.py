"""Wording of quantities, comparisons and results, the same in every report."""

from collections.abc import Sequence

from objectives import Measurement
from search.records import Axis, Record, difference, gain, order, told_difference
from search.reporting.summary import UNCONFIRMED, Summary

SAME = "same"
"""Change of what cannot be told from the baseline."""


def quantity(value: float, unit: str) -> str:
    """Return a value with its unit for people: `0.487 ms`, `1.10 MB`, `0.881`."""
    if unit in ("bytes", "byte", "B"):
        for scale, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if abs(value) >= scale:
                return f"{figures(value / scale)} {name}"
        return f"{value:.0f} B"
    if unit == "score":
        return f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}"
    return f"{figures(value)} {unit}".rstrip()


def figures(value: float) -> str:
    """Return a number with three significant figures, without an exponent if that is readable."""
    if value == 0 or not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{3 if abs(value) < 1 else decimals}f}"


def interval(measurement: Measurement) -> str:
    """Return a measurement with its 95 % interval, in its unit."""
    low, high = (quantity(v, measurement.unit) for v in (measurement.low, measurement.high))
    value = quantity(measurement.value, measurement.unit)
    return value if low == high == value else f"{value} ({low} to {high})"


def change(record: Record, axis: Axis, baseline: Record) -> str:
    """Return the change of a record relative to the baseline: `4.71x faster`, `-0.004`."""
    if not axis.positive:
        return _score_change(record, axis, baseline)
    factor = gain(record, axis, baseline)
    told_apart = order(record.measurements[axis.name], baseline.measurements[axis.name]) != 0
    if 0.995 < factor < 1.005 or not told_apart:
        return SAME
    better, worse = axis.better or ("better", "worse")
    return f"{figures(factor)}x {better}" if factor >= 1 else f"{figures(1 / factor)}x {worse}"


def has_size(summary: Summary) -> bool:
    """True if a table of the front has a column for the size beside those of the objectives."""
    return any(summary.size(record) for record in (summary.baseline, *summary.front))


def size_told(record: Record, summary: Summary) -> tuple[str, str] | None:
    """Return the bytes of a record's files, and their change to the baseline's, in words.

    None where `Summary.size` is. The change is empty for the baseline itself, and where the
    baseline's size is unknown.
    """
    size, base = summary.size(record), summary.size(summary.baseline)
    if size is None:
        return None
    told = quantity(size.value, size.unit)
    if base is None or not size.value or record.trial == summary.baseline.trial:
        return told, ""
    factor = base.value / size.value
    if 0.995 < factor < 1.005:
        return told, SAME
    return told, f"{figures(max(factor, 1 / factor))}x {'smaller' if factor > 1 else 'larger'}"


def _score_change(record: Record, axis: Axis, baseline: Record) -> str:
    """Return the difference of a score to the baseline's, with its 95 % interval if it is known."""
    told = told_difference(record, baseline, axis.name)
    if told is None:
        value = axis.value(record) - axis.value(baseline)
        return SAME if abs(value) < 5e-4 else f"{value:+.3f}"
    found, on_test = told
    if found.value == 0 and found.is_noise:
        return SAME
    where = " on test" if on_test else ""
    return f"{found.value:+.3f}{where} ({found.low:+.3f} to {found.high:+.3f})"


def test_cell(record: Record, name: str, summary: Summary) -> str:
    """Return a score on test data, with the interval of its difference to the baseline's."""
    measurement, base = record.test[name], summary.baseline.test.get(name)
    value = quantity(measurement.value, measurement.unit)
    if base is None or record.trial == summary.baseline.trial:
        return value
    found = difference(measurement, base)
    return f"{value} ({found.low:+.3f} to {found.high:+.3f})" if found else value


def doubts(summary: Summary) -> dict[int, str]:
    """Return what noise leaves open about members of the front, in sentences by trial number."""
    known = summary.membership
    sentences = {
        trial: f"Trial{'s' * (len(others) > 1)} {_enumeration([str(t) for t in others])} cannot be "
        f"told apart from trial {trial}."
        for trial, others in known.ties.items()
    }
    for trial, rival in known.doubtful.items():
        doubt = f"Trial {rival} is better otherwise; the better score of {trial} may be noise."
        sentences[trial] = " ".join(filter(None, [sentences.get(trial), doubt]))
    return sentences


def headline(summary: Summary) -> list[str]:
    """Return the results in a few sentences, the most important first."""
    if not summary.has_baseline:
        return [f"The unchanged model could not be measured: {summary.baseline.reason}."]
    if not summary.front:
        return _without_front(summary)
    values = [quantity(axis.value(summary.baseline), axis.unit) for axis in summary.axes]
    values += [size[0]] if (size := size_told(summary.baseline, summary)) else []
    lines = [f"Unchanged model in {summary.baseline.runtime}: {', '.join(values)}."]
    by_trial: dict[int, list[str]] = {}
    for word, record in summary.picked.items():
        by_trial.setdefault(record.trial, []).append(word)
    members = {record.trial: record for record in summary.front}
    for trial, words in by_trial.items():
        record = members[trial]
        name = _enumeration([word.replace("-", " ") for word in words]).capitalize()
        lines.append(f"{name}: {_sentence(record, summary)}.")
    return lines


def title(summary: Summary) -> str:
    """Return the results in one line: the gains of the front's knee."""
    picked = summary.picked
    if not picked:
        return headline(summary)[0]
    record = picked.get("knee", next(iter(picked.values())))
    gains = [axis_change(record, axis, summary.baseline) for axis in summary.axes]
    positive = [g for g, axis in zip(gains, summary.axes, strict=True) if axis.positive]
    rest = [g for g, axis in zip(gains, summary.axes, strict=True) if not axis.positive]
    return _enumeration([*positive, *rest])


def axis_change(record: Record, axis: Axis, baseline: Record) -> str:
    """Return the change of a record on an axis, in words that name the axis."""
    words = change(record, axis, baseline)
    if words == SAME:
        return f"{axis.name} unchanged"
    return words if axis.positive and axis.better else f"{axis.name} {words}"


def _sentence(record: Record, summary: Summary) -> str:
    gains = [axis_change(record, axis, summary.baseline) for axis in summary.axes]
    if size := size_told(record, summary):
        gains += [f"size {size[0]}" if size[1] in ("", SAME) else size[1]]
    return f"trial {record.trial} ({record.runtime}, {summary.short(record)}): {', '.join(gains)}"


def _without_front(summary: Summary) -> list[str]:
    complete = [r for r in summary.records if r.state == "complete"]
    record = summary.best
    if record is None or not complete:
        return ["No trial succeeded."]
    broken = [f"{name} by {figures(v)}" for name, v in record.limits.items() if v > 0]
    lines = [f"No trial satisfies every limit: {len(complete)} were measured."]
    lines.append(f"Nearest: {_sentence(record, summary)}; it misses {_enumeration(broken)}.")
    return lines


def _enumeration(words: Sequence[str]) -> str:
    """Return words as an enumeration: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def trust(summary: Summary) -> list[str]:
    """Return sentences about the reliability of the numbers."""
    confirmation = (
        "The front was measured again after the search, in turns with the baseline."
        if summary.confirmed
        else UNCONFIRMED
    )
    split = (
        "The validation split guided the search; the test split was scored once, for the front."
        if any(r.test for r in summary.front)
        else "The validation split guided the search; the test split has not been scored."
    )
    return [
        "Every number was measured on the exported file, loaded by its own runtime.",
        "Times follow from ratios, taken in turns with the unchanged model in its fastest runtime.",
        "Each runtime was asked what it executes; a trial says where that is not what was asked.",
        confirmation,
        split,
        "Times hold for the target and machine below, not for others: measure there again.",
        *_continuations(summary.records),
    ]


def _continuations(records: Sequence[Record]) -> list[str]:
    """Return one sentence for each set of changes with which the run was continued by force."""
    trials: dict[tuple[str, ...], list[int]] = {}
    for record in records:
        if changes := record.facts.continued_with:
            trials.setdefault(changes, []).append(record.trial)
    return [
        f"Trials {min(numbers)} to {max(numbers)} were measured after the run was continued by "
        f"force although {_enumeration(changes)}."
        for changes, numbers in trials.items()
    ]
