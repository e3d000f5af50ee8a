"""How well times of equal artifacts agree: ratios taken in turns, and absolute times beside them.

    python experiments/noise.py RUN [--trial N] [--pairs 200] [--loaded] [--out FILE]

RUN is a finished search. Three artifacts are measured again and again as a search does it, each in
turns with the reference: a copy of the reference (A/A: its interval should hold 1 in 95 % of the
measurements), and, beside every fourth of these, one member twice. The two values of the member are
compared, as the same architecture in two trials would be: their ratios to the reference, and their
absolute times.
With `--loaded`, another process keeps all cores busy for random seconds.
"""

import argparse
import contextlib
import functools
import json
import math
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _reference import reference_of_run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from objectives.host import cores, processor
from search import Experiment
from search import open as open_run
from search.experiment import timed
from search.measuring import MeasurementServer, Reference

PAIR = ("first", "second")


MEMBER_EVERY = 4
"""A/A measurements for each pair of measurements of the member."""


def main() -> None:
    """Measure the pairs and print one line for each way to compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--trial", type=int, help="the member; the fastest by default")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--loaded", action="store_true")
    parser.add_argument("--out", type=Path, help="keep all values as JSON")
    options = parser.parse_args()
    result = open_run(options.run)
    pick = "fastest" if options.trial is None else f"trial={options.trial}"
    member = options.run / str(result.pick(pick).record.artifact)
    origin = json.loads((options.run / "environment.json").read_text())["experiment_folder"]
    experiment = Experiment.parse((options.run / "experiment.toml").read_text(), Path(origin))
    reference = reference_of_run(experiment, result.summary, options.run.resolve())
    name = next(iter(timed(experiment.objectives)))
    with (
        tempfile.TemporaryDirectory() as scratch,
        contextlib.closing(MeasurementServer()) as server,
        _load(options.loaded),
    ):
        copy = Path(scratch) / "copy"
        shutil.copytree(reference.artifact, copy)
        data = options.run.resolve() / "cache" / "data"
        measure = functools.partial(
            server.measure,
            experiment,
            names=[name],
            split="validation",
            data=data,
            reference=reference,
        )
        rows = _pairs(options.pairs, copy, member.resolve(), measure, name, reference)
    print(f"{processor()}, {cores()} cores, {'loaded' if options.loaded else 'quiet'}")
    _print(rows)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


def _pairs(
    count: int,
    copy: Path,
    member: Path,
    measure: Callable[..., Any],
    name: str,
    reference: Reference,
) -> list[dict[str, Any]]:
    """Return the measurements of each pair."""

    def measured(artifact: Path) -> dict[str, Any]:
        start = time.perf_counter()
        found = measure(artifact)
        relative, own = found.measurements[name], reference.values[name]
        ratio = {k: getattr(relative, k) / own for k in ("value", "low", "high")}
        series = found.times[name]
        medians = [np.median([x for turn in turns for x in turn]) for turns in series]
        return {
            "seconds": time.perf_counter() - start,
            "absolute": float(np.median(medians)),
            "processes": found.processes,
            "ratio": ratio,
        }

    rows = []
    for number in range(count):
        print(f"\rpair {number + 1} of {count}", end="", file=sys.stderr, flush=True)
        row = {"same": measured(copy)}
        if number % MEMBER_EVERY == 0:
            row |= {"first": measured(member), "second": measured(member)}
        rows.append(row)
    print(file=sys.stderr)
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    same = [row["same"]["ratio"] for row in rows]
    outside = np.mean([not r["low"] <= 1 <= r["high"] for r in same])
    width = np.median([(r["high"] - r["low"]) / 2 / r["value"] for r in same])
    error = np.abs([np.log(r["value"]) for r in same])
    print(
        f"A/A ratios: {outside:.1%} of {len(rows)} intervals exclude 1; median error "
        f"{np.median(error):.2%}, 95th percentile {np.quantile(error, 0.95):.2%}; "
        f"median half-width {width:.2%}"
    )
    apart = [
        abs(math.log(row["first"]["ratio"]["value"] / row["second"]["ratio"]["value"]))
        > math.log(max(row[k]["ratio"]["high"] / row[k]["ratio"]["value"] for k in PAIR))
        for row in rows
        if "second" in row
    ]
    print(f"equal artifacts are told apart in {np.mean(apart):.1%} of {len(apart)} pairs")
    for title, value in (
        ("ratios in turns", lambda m: m["ratio"]["value"]),
        ("absolute times", lambda m: m["absolute"]),
    ):
        twice = [row for row in rows if "second" in row]
        pairs = [(value(row["first"]), value(row["second"])) for row in twice]
        inside = np.abs([np.log(a / b) for a, b in pairs])
        everything = [v for pair in pairs for v in pair]
        spread = np.quantile(everything, [0.05, 0.95])
        print(
            f"equal artifacts by {title}: differ by {np.median(inside):.2%} in the median, "
            f"{np.quantile(inside, 0.95):.2%} at the 95th percentile; all values from the 5th to "
            f"the 95th percentile span a factor of {spread[1] / spread[0]:.3f}"
        )
    seconds = [row[k]["seconds"] for row in rows for k in row]
    processes = [row[k]["processes"] for row in rows for k in row]
    print(
        f"a measurement takes {np.median(seconds):.2f} s in the median, "
        f"in {np.mean(processes):.1f} processes on average"
    )


@contextlib.contextmanager
def _load(wanted: bool) -> Iterator[None]:
    """Keep all cores busy for random seconds, with pauses as long."""
    if not wanted:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_busy, daemon=False)
    process.start()
    try:
        yield
    finally:
        for child in multiprocessing.active_children():
            child.kill()


def _busy() -> None:
    shuffle = random.Random(0)
    parent = os.getppid()
    while os.getppid() == parent:
        end = time.perf_counter() + shuffle.uniform(0.2, 5)
        children = []
        for _ in range(cores()):
            pid = os.fork()
            if pid == 0:
                while time.perf_counter() < end:
                    sum(range(10_000))
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
        time.sleep(shuffle.uniform(0.2, 5))


if __name__ == "__main__":
    main()
