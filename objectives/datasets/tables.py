"""Tables of texts and labels: CSV, TSV, JSON lines or parquet, a file or a folder of splits."""

import csv
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from objectives.datasets.splits import division, named
from spaces import Split, first_line

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
TEXTS = ("text", "sentence", "review", "content")
"""Names of a column of texts that are recognised."""
LABELS = ("label", "labels", "target", "class")
"""Names of a column of labels that are recognised."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Texts of a split with their labels."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    """Second text of each row; None if rows have one."""
    labels: tuple[Any, ...]


@functools.cache  # every reading of a split asks for it
def text_splits(
    data: Path, text: str = "", label: str = "", pair: str = ""
) -> tuple[Mapping[Split, Rows], str]:
    """Return the rows of each split, and a line that says what was divided.

    `data` is a file, or a folder of files that are named like splits. `text`, `pair` and `label`
    are names of columns; an empty one is recognised by its usual names, and no second text is
    looked for. Raises ValueError if a file cannot be read, or lacks a column or a value of it.
    """
    if data.is_dir():
        files = named(data, SUFFIXES)
        if not files:
            raise ValueError(f"{data} has no train{{{','.join(SUFFIXES)}}}: name files by split")
    elif data.is_file():
        files = {"train": data}
    else:
        raise ValueError(f"there is no file or folder of texts at {data}")
    tables = {split: _table(path) for split, path in files.items()}
    columns = {split: _columns(files[split], t, text, label, pair) for split, t in tables.items()}
    rows = {split: _rows(files[split], tables[split], columns[split]) for split in tables}
    numbers = {split: [(split, i) for i in range(len(r.texts))] for split, r in rows.items()}
    of_row = {item: _hashable(rows[s].labels[item[1]]) for s in numbers for item in numbers[s]}
    classes = of_row if len(set(of_row.values())) <= max(2, len(of_row) // 10) else None
    divided, notice = division(numbers, str(data), classes)
    return {split: _picked(rows, items) for split, items in divided.items()}, notice


def _table(path: Path) -> pd.DataFrame:
    empty = {"keep_default_na": False, "na_values": [""]}  # "null" and "NA" may be texts
    try:
        match path.suffix.lower():
            case ".csv":
                table = pd.read_csv(path, **empty)
            case ".tsv":
                table = pd.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE, **empty)
            case ".jsonl" | ".json":
                table = pd.DataFrame(_objects(path.read_text()))
            case ".parquet":
                table = pd.read_parquet(path)
            case other:
                raise ValueError(f"its name ends in {other!r}, not in {', '.join(SUFFIXES)}")
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(f"{path} cannot be read as a table: {first_line(error)}") from error
    if not len(table):
        raise ValueError(f"{path} has no rows")
    return table


def _objects(text: str) -> list[Any]:
    """Return the objects of JSON lines, or of one list; pandas would guess types and dates."""
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _columns(path: Path, table: pd.DataFrame, text: str, label: str, pair: str) -> dict[str, str]:
    """Return the names of the columns by what they hold."""
    found = {
        "text": _column(path, table, "text", text, TEXTS),
        "label": _column(path, table, "label", label, LABELS),
    }
    return found | ({"pair": _column(path, table, "pair", pair, ())} if pair else {})


def _column(path: Path, table: pd.DataFrame, field: str, name: str, usual: Sequence[str]) -> str:
    names = [str(column) for column in table.columns]
    for wanted in (name,) if name else usual:
        if wanted in names:
            return wanted
    missing = repr(name) if name else f"named {' or '.join(usual)}"
    raise ValueError(
        f"{path} has no column {missing}, its columns are {', '.join(names)}: write "
        f'{field} = "NAME" in the table [task.hf] of an experiment'
    )


def _rows(path: Path, table: pd.DataFrame, columns: Mapping[str, str]) -> Rows:
    for name in columns.values():
        if missing := int(table[name].isna().sum()):
            raise ValueError(f"{path} has {missing} rows without a value in the column {name!r}")
    texts = {
        field: table[columns[field]].tolist() for field in ("text", "pair") if field in columns
    }
    for field, values in texts.items():
        if wrong := next((v for v in values if not isinstance(v, str)), None):
            raise ValueError(
                f"the column {columns[field]!r} of {path} holds {wrong!r}, which is no text"
            )
    return Rows(
        texts=tuple(texts["text"]),
        pairs=tuple(texts["pair"]) if "pair" in texts else None,
        labels=tuple(table[columns["label"]].tolist()),
    )


def _picked(rows: Mapping[Split, Rows], items: Sequence[tuple[Split, int]]) -> Rows:
    chosen = [(rows[split], index) for split, index in items]
    paired = all(r.pairs is not None for r, _ in chosen)
    return Rows(
        texts=tuple(r.texts[i] for r, i in chosen),
        pairs=tuple(r.pairs[i] for r, i in chosen if r.pairs is not None) if paired else None,
        labels=tuple(r.labels[i] for r, i in chosen),
    )


def _hashable(label: Any) -> Any:
    return label if isinstance(label, str | int | float) else repr(label)
