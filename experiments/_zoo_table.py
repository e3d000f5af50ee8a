"""The zoo's outcomes as a table in Markdown."""

import collections
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

COLUMNS = (
    "architecture",
    "parameters (M)",
    "state",
    "weights, operations removed",
    "seconds",
    "exports",
    "told",
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return counts of the states, and one line for each architecture."""
    lines = [_counts(rows), "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
    return "\n".join([*lines, *(_line(_cells(row)) for row in rows)])


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    states = collections.Counter(row["state"] for row in rows)
    told = ", ".join(f"{count} {state}" for state, count in states.most_common())
    seconds = [row["seconds"]["prune"] for row in rows if row["state"] == "pruned"]
    exports = collections.Counter(
        f"{name} {_short(result)}" for row in rows for name, result in row["exports"].items()
    )
    made = ", ".join(f"{count} {name}" for name, count in sorted(exports.items()))
    times = ""
    if seconds:
        times = (
            f" Pruning took {statistics.median(seconds):.0f} s in the median, "
            f"{max(seconds):.0f} s at most."
        )
    return f"{len(rows)} architectures: {told}.{times} Exports: {made or 'none'}."


def _short(result: str) -> str:
    return result.partition(":")[0]


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    pruned = row["state"] == "pruned"
    yield row["name"]
    yield f"{row['parameters'] / 1e6:.1f}" if row["parameters"] else ""
    yield row["state"] if pruned else f"{row['state']} ({row['stage']})"
    yield f"{row['removed']:.0%}, {row['saved']:.0%}" if pruned else ""
    yield ", ".join(f"{stage} {value:.0f}" for stage, value in row["seconds"].items())
    yield ", ".join(
        f"{name} {_short(result)}{_difference(row, name)}"
        for name, result in row["exports"].items()
    )
    refused = [r for r in row["exports"].values() if ":" in r]
    yield " ".join([row["reason"], *row["left"], *refused]).strip()


def _difference(row: Mapping[str, Any], name: str) -> str:
    return f" {row['differences'][name]:.0e}" if name in row["differences"] else ""


def _line(cells: Sequence[str] | Iterator[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
