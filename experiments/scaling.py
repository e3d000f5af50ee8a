"""Measures how many trials an hour a search gets through with one and with several workers.

    python experiments/scaling.py experiments/gpu/scaling.toml [--workers 1 2 4]
        [--trials 12 24 48] [--seconds 300] [--out experiments/results/scaling.json]

The same experiment is searched afresh with each number of workers, and stopped once so many trials
(one number, or one for each number of workers) have ended or its seconds are over; what it started
then is lost, so that no worker was ever idle for want of points. The steady rate is that of the
trials after the first two of each worker: Ray's start, imports and connections are no part of it,
but stand beside it. What a worker spends on a trial is divided into the trial's stages, the rest of
the time from its point to its record (a process and its imports), and the time between trials, so
that the rows show where a loss of efficiency goes. Points that were measured with both numbers of
workers are compared: the median ratio of their latencies, and how many of the intervals overlap.
"""

import argparse
import contextlib
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2
"""Trials of each worker that are no part of the steady rate: they import and connect."""
STOPPING = 15.0
"""Seconds that an interrupted search has to end."""


def main() -> None:
    """Search with each number of workers, print a table and write it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--trials", type=int, nargs="+", default=[12])
    parser.add_argument("--seconds", type=float, default=1800.0, help="of each search")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if len(asked.trials) not in (1, len(asked.workers)):
        parser.error("--trials takes one number, or one for each number of workers")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no search outlives this
    trials = asked.trials * (1 if len(asked.trials) > 1 else len(asked.workers))
    rows: list[dict[str, Any]] = []
    print(HEAD, flush=True)
    for workers, wanted in zip(asked.workers, trials, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            rows.append(searched(asked.experiment, workers, wanted, asked.seconds, run))
        rows[-1] |= compared(rows[0], rows[-1])
        print(line(rows[0], rows[-1]), flush=True)
        if asked.out:
            asked.out.write_text(json.dumps(rows, indent=1) + "\n")


HEAD = (
    "workers  trials  steady trials/h  gain  efficiency  a trial: stages, process, between  start"
)


def line(first: dict[str, Any], row: dict[str, Any]) -> str:
    """Return a row as text."""
    spent = row["worker_seconds_a_trial"]
    left = f"{row['workers']:>7}  {row['trials']:>6}  {row['trials_per_hour']:>15.0f}"
    middle = f"{row['gain']:>3.2f}x  {row['efficiency']:>10.0%}"
    parts = ", ".join(f"{spent[k]:.2f}" for k in ("stages", "process", "between"))
    text = f"{left}  {middle}  {parts + ' s':>34}  {row['start_seconds']:.0f} s"
    if row is first:
        return text
    known = row["agreement"]
    return (
        f"{text}\n         latency against {first['workers']}: {known['ratio']:.3f}x (median), "
        f"{known['overlapping']} of {known['points']} intervals overlap"
    )


def compared(first: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Return the gain over the first row, and where a worker spends more on a trial than there."""
    gain = row["trials_per_hour"] / first["trials_per_hour"]
    before, after = first["seconds_by_stage"], row["seconds_by_stage"]
    more = {k: round(after.get(k, 0.0) - before.get(k, 0.0), 2) for k in before | after}
    for part in ("process", "between"):
        spent = [r["worker_seconds_a_trial"][part] for r in (first, row)]
        more[part] = round(spent[1] - spent[0], 2)
    return {
        "gain": gain,
        "efficiency": gain * first["workers"] / row["workers"],
        "more_seconds_a_trial": more,
        "agreement": agreement(first["latencies"], row["latencies"]),
    }


def agreement(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return how the latencies of the points that both runs measured compare."""
    both = sorted(set(one) & set(other))
    ratios = [other[point]["value"] / one[point]["value"] for point in both]
    overlapping = [
        other[p]["low"] <= one[p]["high"] and one[p]["low"] <= other[p]["high"] for p in both
    ]
    return {
        "points": len(both),
        "ratio": statistics.median(ratios) if ratios else float("nan"),
        "overlapping": sum(overlapping),
    }


def searched(
    experiment: Path, workers: int, trials: int, seconds: float, run: Path
) -> dict[str, Any]:
    """Return what one search took."""
    command = [sys.executable, "-m", "search", "run", str(experiment), "--out", str(run)]
    command += ["--trials", str(trials + workers), "--workers", str(workers)]
    began = datetime.datetime.now()
    stopped_after(command, run / "records.jsonl", trials, seconds)
    storage = optuna.storages.RDBStorage(f"sqlite:///{run / 'study.db'}")
    (name,) = optuna.study.get_all_study_names(storage)
    times = {
        t.number: (t.datetime_start, t.datetime_complete)
        for t in optuna.load_study(study_name=name, storage=storage).get_trials()
    }
    records = ended(run / "records.jsonl")
    warm = WARM_UP * workers
    if len(records) <= warm:
        raise SystemExit(f"{len(records)} trials ended with {workers} workers: give more seconds")
    records = sorted(records, key=lambda r: times[r["trial"]][1])[:trials]
    first, steady = records[:warm], records[warm:]
    window = (times[records[-1]["trial"]][1] - times[first[-1]["trial"]][1]).total_seconds()
    states = [r["state"] for r in records]
    starts = [times[r["trial"]][0] for r in records]
    return {
        "workers": workers,
        "trials": len(records),
        "states": {state: states.count(state) for state in sorted(set(states))},
        "steady_trials": len(steady),
        "seconds": window,
        "trials_per_hour": 3600 * len(steady) / window,
        "overall_trials_per_hour": 3600
        * len(records)
        / (times[records[-1]["trial"]][1] - began).total_seconds(),
        "start_seconds": (min(starts) - began).total_seconds(),
        "first_trials_seconds": (times[first[-1]["trial"]][1] - min(starts)).total_seconds(),
        "worker_seconds_a_trial": spent(steady, times, workers * window / len(steady)),
        "seconds_by_stage": stages(steady),
        "latencies": {
            json.dumps(r["point"], sort_keys=True): r["measurements"]["latency"]
            for r in records
            if "latency" in r["measurements"]
        },
        "gpus": sorted({r["facts"].get("conditions", {}).get("gpu", "") for r in records} - {""}),
    }


def stopped_after(command: list[str], file: Path, trials: int, seconds: float) -> None:
    """Run a search and interrupt it once so many trials have ended, or the seconds are over."""
    deadline = time.monotonic() + seconds
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if len(ended(file)) >= trials:
                return
            time.sleep(0.2)
    finally:
        process.terminate()  # not SIGINT, which a shell's background jobs ignore
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOPPING)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def ended(file: Path) -> list[dict[str, Any]]:
    """Return the records of the trials that were paid for, in the order in which they ended."""
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [r for r in records if r["state"] != "infeasible"]


def spent(
    records: list[dict[str, Any]], times: dict[int, tuple[Any, Any]], whole: float
) -> dict[str, float]:
    """Return the mean seconds that a worker spends on a trial, `whole` in all, by their kind."""
    walls = [times[r["trial"]][1] - times[r["trial"]][0] for r in records]
    wall = statistics.fmean(w.total_seconds() for w in walls)
    inside = statistics.fmean(r["seconds"] for r in records)
    parts = {"whole": whole, "stages": inside, "process": wall - inside, "between": whole - wall}
    return {name: round(seconds, 3) for name, seconds in parts.items()}


def stages(records: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean seconds that a trial spends in each of its stages."""
    spent: dict[str, float] = {}
    for record in records:
        for stage, seconds in record["facts"].get("seconds", {}).items():
            spent[stage] = spent.get(stage, 0.0) + seconds / len(records)
    return {stage: round(seconds, 2) for stage, seconds in spent.items()}


if __name__ == "__main__":
    main()
