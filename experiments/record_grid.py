"""Evaluates every point of an experiment's space and writes a table for the replay of searches.

    python experiments/record_grid.py EXPERIMENT.toml --out TABLE.parquet
        [--space grids/cifar10.toml] [--run FOLDER] [--limit N] [--as-is]

`--space` is a TOML file whose keys replace those of the experiment, so that a grid of a user's own
experiment needs no copy of it; its tables `leave_out` name parts of points that are no part of the
grid. Every point is a trial of the product, in a fresh process and timed
in turns with the reference, and none is stopped early. `--limit` evaluates so many points only.
The run folder, beside the table unless given, keeps what was measured: the same command goes on
where one was interrupted. An interrupted one writes what there is; so does `--as-is`, beside one
that is still running.

A row is one canonical point. Columns: the dimensions by their full names; the objectives on the
validation split, with the ends of their intervals; `state`; `seconds` and what `_grid_table.rows`
says of its parts. The schema's metadata has the key `paretune`, a JSON object: names of the
dimensions, direction of each objective, experiment, date, processor and versions.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import _grid
import _grid_table

from search import Experiment, SearchError
from search import open as open_run
from search import run as search_run
from search.experiment import NamedEntry, kinds_of, refusal_here

MOST = 5000
"""Points of the largest space that is recorded."""


def main() -> None:
    """Evaluate the points and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--space", type=Path, help="TOML whose keys replace the experiment's")
    parser.add_argument("--run", type=Path, help="run folder; TABLE.run by default")
    parser.add_argument("--limit", type=int, help="evaluate so many points")
    parser.add_argument("--as-is", action="store_true", help="write the table, evaluate nothing")
    asked = parser.parse_args()
    run = asked.run or asked.out.with_suffix(".run")
    try:
        grid = read(asked.experiment, asked.space, asked.limit)
        (table if asked.as_is else record)(grid, asked.out, run.resolve())
    except SearchError as error:
        raise SystemExit(f"error: {error}") from error


def read(file: Path, changes: Path | None = None, limit: int | None = None) -> Experiment:
    """Return the experiment that evaluates the grid of a file, or `limit` points of it.

    The keys of the file `changes` take the place of its own.
    """
    content = {"name": file.stem} | tomllib.loads(file.read_text())
    if changes:
        content |= tomllib.loads(changes.read_text())
    leave_out = content.pop("leave_out", [])
    experiment = Experiment.of(content, file.resolve().parent)
    if experiment.space.size() > MOST:
        raise SearchError(
            f"a grid has at most {MOST} points, the space has {experiment.space.size():g}: narrow "
            "it by --space"
        )
    kinds = kinds_of(experiment.task.model())
    points = _grid.points(experiment.space, leave_out)
    allowed = [p for p in points if not refusal_here(experiment, experiment.space.plan(p), kinds)]
    pairs = [[[name, value] for name, value in part.items()] for part in leave_out]
    code = Path(_grid.__file__).resolve()
    return dataclasses.replace(
        experiment,
        trials=min(len(allowed), limit or MOST),
        sampler=NamedEntry(f"{code}:Enumeration", {"leave_out": pairs}),
        executor=NamedEntry(f"{code}:Whole"),
    )


def record(grid: Experiment, out: Path, run: Path) -> None:
    """Evaluate the points of a grid, write the table of the run, and print a line about it."""
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{run / 'mlflow.db'}")
    run.mkdir(parents=True, exist_ok=True)
    try:
        search_run(grid, out=run)
    finally:  # also of a run that was interrupted
        with contextlib.suppress(SearchError):  # nothing was measured
            table(grid, out, run)


def table(grid: Experiment, out: Path, run: Path) -> None:
    """Write the table of what a run has evaluated, and print a line about it."""
    records = open_run(run).records
    environment: dict[str, Any] = json.loads((run / "environment.json").read_text())
    made = {k: environment.get(k) for k in ("processor", "cores", "platform", "target", "versions")}
    made["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    written = _grid_table.write(out, grid, records, made)
    states = ", ".join(f"{n} {state}" for state, n in _counts([r.state for r in records]).items())
    print(f"{out}: {written.num_rows} of {grid.trials} points, {states}")


def _counts(words: list[str]) -> dict[str, int]:
    return {word: words.count(word) for word in sorted(set(words))}


if __name__ == "__main__":
    main()
