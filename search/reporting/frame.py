"""Data frames of records, for spreadsheets and notebooks."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from search.records import Record, gain
from search.reporting.summary import Summary


def front_frame(summary: Summary) -> pd.DataFrame:
    """Return the front, one row for each member, with texts made safe for spreadsheets."""
    members = summary.front if summary.has_baseline else ()
    rows = [_row(record, summary) for record in members]
    return pd.DataFrame([{_safe(k): _safe(v) for k, v in row.items()} for row in rows])


def trials_frame(summary: Summary, records: Sequence[Record]) -> pd.DataFrame:
    """Return records, one row each, with units in the column names."""
    return pd.DataFrame([_row(record, summary) for record in records])


def _row(record: Record, summary: Summary) -> dict[str, Any]:
    words = [word for word, picked in summary.picked.items() if picked.trial == record.trial]
    row: dict[str, Any] = {"trial": record.trial, "pick": " ".join(words)}
    row |= {"runtime": record.runtime, "state": record.state}
    for axis in summary.axes:
        if axis.name not in record.measurements:
            continue
        measurement, column = record.measurements[axis.name], f"{axis.name}_{axis.unit}"
        row[column] = measurement.value
        row |= {f"{column}_low": measurement.low, f"{column}_high": measurement.high}
        if axis.positive and summary.has_baseline:
            row[f"{axis.name}_gain"] = gain(record, axis, summary.baseline)
    if size := summary.size(record):
        row["size_bytes"] = size.value
    row |= {f"test_{name}_{m.unit}": m.value for name, m in record.test.items()}
    return row | {"artifact": record.artifact or "", **record.point}


def _safe(cell: Any) -> Any:
    """Return a cell with a quote before the signs that start a formula in spreadsheets."""
    risky = isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{cell}" if risky else cell
