"""Replays whole searches on a recorded table: opening, choice of points, sampler, early stopping.

    python experiments/replay.py TABLE.parquet EXPERIMENT.toml [--space CHANGES.toml]
        [--arms engine tpe ...] [--seeds 3] [--trials 60] [--out FILE.json]

The table was written by `record_grid.py` from the same experiment. A search asks as the product
does (`search.study`); what a trial would measure is read from the table, and the clock advances by
the seconds that it took. A shape is paid once a search, as is a training that encodings share;
a trial that is stopped at its probe pays for no more. The seconds of the choice itself are added.
The score is the hypervolume of what is measured so far and keeps the limits, as a share of the
table's. Its axes are the error and the logarithm of the latency, from the unchanged model's error
and the table's smallest latency to the worst that are of use: the limit of the error, or its 0.99
quantile without one, and the latency of the unchanged model in its fastest runtime. Points that
are no row of the table are refused, as by a runtime.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import optuna
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import record_grid

from objectives import Measurement
from search import Experiment, Record
from search.experiment import NamedEntry
from search.records import PROBE, Facts, Rung
from search.study import Queue, Study, baselines
from spaces import Point

SHARES = (0.95, 0.98, 0.99)
TRAINED = "accuracy"
"""The objective that a stopped trial lacks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a recorded grid by their points."""

    experiment: Experiment
    rows: dict[str, dict[str, Any]]
    scale: tuple[np.ndarray, np.ndarray]
    """Smallest losses, and the reference: two for each, error and latency."""
    whole: float
    """Hypervolume of all rows."""

    @classmethod
    def read(cls, file: Path, experiment: Experiment) -> "Table":
        """Return the table of a file; rows that were not measured are left out."""
        frame = pd.read_parquet(file)
        frame = frame[frame["state"] == "complete"]
        names = list(experiment.space.dimensions())
        rows = {key({n: row[n] for n in names}): row for row in frame.to_dict("records")}
        table = cls(experiment=experiment, rows=rows, scale=scale_of(experiment, rows), whole=1.0)
        losses = [losses_of(row) for row in rows.values()]
        return dataclasses.replace(table, whole=table.share(losses))

    def row(self, point: Point) -> dict[str, Any] | None:
        """Return the row of a point."""
        return self.rows.get(key(self.experiment.space.canonical(point)))

    def share(self, losses: Any) -> float:
        """Return the hypervolume of rows of losses, as a share of the table's."""
        found = np.maximum(np.array(losses, float).reshape(-1, 2), self.scale[0])
        found[:, 1] = np.log(found[:, 1])
        low, top = (np.array([error, np.log(latency)]) for error, latency in self.scale)
        scaled = (found - low) / (top - low)
        return float(moocore.hypervolume(scaled, ref=np.ones(2))) / self.whole


@dataclasses.dataclass
class Clock:
    """Seconds of one search, with what it has paid for."""

    seconds: float = 0.0
    paid: set[str] = dataclasses.field(default_factory=set)

    def spend(self, row: dict[str, Any], *, probe: bool = False) -> None:
        """Add the seconds of a trial, or of one that is stopped at its probe."""
        stages = ["reference", "shape", "prepare", "probe"]
        stages += [] if probe else ["train", "deploy", "measure", "profile"]
        for stage in stages:
            shared = {"shape": "shape", "train": "training"}.get(stage)
            if shared and row[shared]:
                if row[shared] in self.paid:
                    continue
                self.paid.add(row[shared])
            self.seconds += row[f"seconds_{stage}"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """Share of the hypervolume, trials and seconds after each trial of one search."""

    shares: list[float]
    seconds: list[float]

    def reached(self, share: float) -> tuple[int, float] | None:
        """Return the trials and seconds after which a share was reached; None if it never was."""
        for number, (found, seconds) in enumerate(zip(self.shares, self.seconds, strict=True)):
            if found >= share:
                return number + 1, seconds
        return None


def key(point: Point) -> str:
    """Return a text that equal points share."""
    plain = {k: float(v) if isinstance(v, int | float) else v for k, v in point.items()}
    return json.dumps(plain, sort_keys=True)


def scale_of(experiment: Experiment, rows: dict[str, dict[str, Any]]) -> tuple[Any, Any]:
    """Return error and latency below which less counts no more, and those that are useless."""
    known = [row for point in baselines(experiment) if (row := rows.get(key(point)))]
    losses = np.array([losses_of(row) for row in rows.values()])
    score = next(goal for goal in experiment.objectives if goal.name == TRAINED)
    bound = score.bound(known[0][TRAINED])
    error = np.quantile(losses[:, 0], 0.99) if bound is None else 1.0 - bound
    low = np.array([1.0 - known[0][TRAINED], losses[:, 1].min()])
    return low, np.array([error, min(row["latency"] for row in known)])


def losses_of(row: dict[str, Any]) -> tuple[float, float]:
    """Return error and latency of a row."""
    return 1.0 - row["accuracy"], row["latency"]


def engine(table: Table, seed: int, trials: int, **sampler: Any) -> Trace:
    """Return the trace of a search by the product, with one of its samplers."""
    entry = NamedEntry(sampler.pop("name", "structural"), sampler)
    experiment = dataclasses.replace(table.experiment, seed=seed, trials=trials, sampler=entry)
    clock, seen, shares, seconds = Clock(), [], [], []
    with tempfile.TemporaryDirectory() as folder:
        study = Study.open(
            Path(folder), experiment, lambda p: None if table.row(p) else "it is not in the table"
        )
        queue = Queue(
            study,
            seconds=None,
            on_record=lambda record: None,
            on_start=lambda pending: None,
            progress=lambda *_: None,
        )
        start = time.perf_counter()
        while pending := queue.ask():
            clock.seconds += time.perf_counter() - start
            row = table.row(pending.point)
            assert row is not None
            record = recorded(experiment, pending.trial, pending.point, row)
            untrained = {n: m for n, m in record.measurements.items() if n != TRAINED}
            reason = queue.judge(pending, Rung(name=PROBE, measurements=untrained))
            clock.spend(row, probe=bool(reason))
            if reason:
                record = dataclasses.replace(
                    record, state="pruned", reason=reason, measurements=untrained
                )
            else:
                seen.append(losses_of(row))
            start = time.perf_counter()
            queue.tell(pending, record)
            shares.append(table.share(seen))
            seconds.append(clock.seconds)
    return Trace(shares=shares, seconds=seconds)


def recorded(experiment: Experiment, trial: int, point: Point, row: dict[str, Any]) -> Record:
    """Return the record that a trial at a row's point would give."""
    measurements = {
        goal.name: Measurement(
            value=row[goal.name],
            unit=goal.objective.unit,
            low=row[f"{goal.name}_low"],
            high=row[f"{goal.name}_high"],
            samples=1,
        )
        for goal in experiment.objectives
    }
    return Record(
        trial=trial,
        point=point,
        runtime=experiment.space.plan(point).runtime,
        state="complete",
        measurements=measurements,
        facts=Facts(
            weights_removed=row["weights_removed"] or None, work={"operations": row["operations"]}
        ),
        seconds=row["seconds_alone"],
    )


def plain(table: Table, seed: int, trials: int, sampler: optuna.samplers.BaseSampler) -> Trace:
    """Return the trace of a search by one of Optuna's samplers, which nothing helps.

    Points without a row are failed trials that cost nothing, known points are answered for nothing.
    """
    grids = {n: list(d.values() or ()) for n, d in table.experiment.space.dimensions().items()}
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    clock, shares, seconds = Clock(), list[float](), list[float]()
    seen: dict[str, tuple[float, float]] = {}
    for _ in range(40 * trials):
        start = time.perf_counter()
        trial = study.ask()
        point = {name: trial.suggest_categorical(name, grid) for name, grid in grids.items()}
        clock.seconds += time.perf_counter() - start
        row = table.row(point)
        if row is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        name = key(table.experiment.space.canonical(point))
        if name not in seen:
            clock.spend(row)
            seen[name] = losses_of(row)
            shares.append(table.share(list(seen.values())))
            seconds.append(clock.seconds)
        study.tell(trial, losses_of(row))
        if len(seen) >= min(trials, len(table.rows)):
            break
    return Trace(shares=shares, seconds=seconds)


ARMS: dict[str, Callable[[Table, int, int], Trace]] = {
    "engine": lambda t, seed, n: engine(t, seed, n),
    "engine without cost": lambda t, seed, n: engine(t, seed, n, cost_exponent=0.0),
    "engine with TPE": lambda t, seed, n: engine(t, seed, n, name="tpe"),
    "TPE as shipped": lambda t, seed, n: plain(t, seed, n, optuna.samplers.TPESampler(seed=seed)),
    "NSGA-II (20)": lambda t, seed, n: plain(
        t, seed, n, optuna.samplers.NSGAIISampler(population_size=20, seed=seed)
    ),
    "random": lambda t, seed, n: plain(t, seed, n, optuna.samplers.RandomSampler(seed=seed)),
}


def summarized(traces: dict[str, list[Trace]]) -> Iterator[str]:
    """Yield the lines of a table: medians of trials and seconds to each share, by arm."""
    heads = [f"{s:.0%}: trials, seconds" for s in SHARES]
    yield f"| arm | {' | '.join(heads)} |"
    yield f"|---|{'---:|' * len(heads)}"
    for arm, found in traces.items():
        cells = []
        for share in SHARES:
            reached = [r for t in found if (r := t.reached(share))]
            if 2 * len(reached) <= len(found):
                cells.append(f"in {len(reached)} of {len(found)}")
                continue
            missing = [(10**9, float("inf"))] * (len(found) - len(reached))
            trials, seconds = zip(*(reached + missing), strict=True)
            cells.append(f"{statistics.median(trials):g}, {statistics.median(seconds):.0f}")
        yield f"| {arm} | {' | '.join(cells)} |"


def main() -> None:
    """Replay the searches and print their table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--space", type=Path)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table.read(asked.table, record_grid.read(asked.experiment, asked.space))
    traces = {
        arm: [ARMS[arm](table, seed, asked.trials) for seed in range(asked.seeds)]
        for arm in asked.arms
    }
    print(f"{len(table.rows)} rows, {asked.seeds} seeds, at most {asked.trials} trials")
    print("\n".join(summarized(traces)))
    if asked.out:
        plain_traces = {a: [dataclasses.asdict(t) for t in found] for a, found in traces.items()}
        asked.out.write_text(json.dumps(plain_traces))


if __name__ == "__main__":
    main()
