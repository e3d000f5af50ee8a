"""Measures how many trials an hour a search gets through with one and with several workers.

    python experiments/scaling.py experiments/gpu/scaling.toml [--workers 1 2 4] [--trials 12]
        [--out experiments/results/scaling.json]

The same experiment is searched afresh with each number of workers. Trials per hour are counted from
the start of the first trial to the end of the last one, as the study has them; the whole time of
the command, which adds start-up, confirmation and report, stands beside them. Points that were
measured with both numbers of workers are compared: the median ratio of their latencies, and how
many of the intervals overlap.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Search with each number of workers, print a table and write it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = []
    print("workers  trials/h  gain  efficiency  seconds a trial  whole command", flush=True)
    for workers in asked.workers:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(searched(asked.experiment, workers, asked.trials, Path(folder) / "run"))
        row, first = rows[-1], rows[0]
        gain = row["trials_per_hour"] / first["trials_per_hour"]
        row |= {"gain": gain, "efficiency": gain * first["workers"] / workers}
        row["agreement"] = agreement(first["latencies"], row["latencies"])
        left = f"{workers:>7}  {row['trials_per_hour']:>8.0f}  {gain:>3.2f}x"
        right = f"{row['seconds_a_trial']:>15.1f}  {row['whole_seconds']:>11.0f} s"
        print(f"{left}  {row['efficiency']:>10.0%}  {right}", flush=True)
        if row is not first:
            known = row["agreement"]
            print(
                f"         latency against {first['workers']}: {known['ratio']:.3f}x (median), "
                f"{known['overlapping']} of {known['points']} intervals overlap",
                flush=True,
            )
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")


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


def searched(experiment: Path, workers: int, trials: int, run: Path) -> dict[str, Any]:
    """Return what one search took."""
    command = [sys.executable, "-m", "search", "run", str(experiment), "--out", str(run)]
    command += ["--trials", str(trials), "--workers", str(workers)]
    start = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    whole = time.monotonic() - start
    storage = optuna.storages.RDBStorage(f"sqlite:///{run / 'study.db'}")
    (name,) = optuna.study.get_all_study_names(storage)
    known = optuna.load_study(study_name=name, storage=storage).get_trials()
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    states = [r["state"] for r in records]
    paid = [r for r in records if r["state"] != "infeasible"]
    first = min(t.datetime_start for t in known if t.datetime_start)
    last = max(t.datetime_complete for t in known if t.datetime_complete)
    seconds = (last - first).total_seconds()
    return {
        "workers": workers,
        "trials": len(paid),
        "states": {state: states.count(state) for state in sorted(set(states))},
        "seconds": seconds,
        "trials_per_hour": 3600 * len(paid) / seconds,
        "seconds_a_trial": sum(r["seconds"] for r in paid) / len(paid),
        "seconds_by_stage": stages(paid),
        "whole_seconds": whole,
        "latencies": {
            json.dumps(r["point"], sort_keys=True): r["measurements"]["latency"]
            for r in paid
            if "latency" in r["measurements"]
        },
        "gpus": sorted({r["facts"].get("conditions", {}).get("gpu", "") for r in paid} - {""}),
    }


def stages(records: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean seconds that a trial spends in each of its stages."""
    spent: dict[str, float] = {}
    for record in records:
        for stage, seconds in record["facts"].get("seconds", {}).items():
            spent[stage] = spent.get(stage, 0.0) + seconds / len(records)
    return {stage: round(seconds, 2) for stage, seconds in spent.items()}


if __name__ == "__main__":
    main()
