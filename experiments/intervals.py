"""How often an interval holds what measuring again finds: on synthetic times, and on real ones.

    python experiments/intervals.py [ARTIFACT ...] [--times 20] [--out FILE]

Each artifact is measured `--times` times, in turns, as `python -m search measure` does. Two
measurements are compared that have no process in common: is the second value within the first one's
interval, and do the intervals overlap? The same is asked of the block bootstrap within one process,
which was used before. Synthetic processes have a level of their own, noise that lasts, and at times
a stretch that is 10 to 65 % slower.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from objectives import of_processes
from search import catalogue
from search.measuring import MeasurementServer, checked

Series = Sequence[Sequence[float]]
Interval = tuple[float, float, float]
GROUPS = 100
"""Synthetic measurements of each kind."""
CASES = ((0.002, 0.0), (0.01, 0.0), (0.01, 0.1), (0.01, 0.3), (0.02, 0.1))
"""Standard deviation between processes, and the share of them that is disturbed."""


def main() -> None:
    """Print a row for each kind of synthetic times, and one for each artifact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifacts", type=Path, nargs="*")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--out", type=Path, help="keep the medians of all processes as JSON")
    asked = parser.parse_args()
    print("times of             processes  within  overlap  width | one process' bootstrap")
    random = np.random.default_rng(0)
    for (apart, disturbed), processes in itertools.product(CASES, (1, 2, 3, 5)):
        many = [_synthetic(random, apart, disturbed, processes) for _ in range(GROUPS)]
        _tell(f"sd {apart:.1%}, {disturbed:.0%} slow", many)
    kept = {}
    for artifact, many in _measured(asked.artifacts, asked.times).items():
        _tell(artifact, many)
        kept[artifact] = [[float(np.median(times)) for times in series] for series in many]
    if asked.out:
        asked.out.write_text(json.dumps(kept, indent=1) + "\n")


def _tell(title: str, many: Sequence[Series]) -> None:
    found = [_agreement(many, interval) for interval in (of_processes, _bootstrap)]
    cells = [f"{w:>6.0%} {o:>8.0%} {width:>6.1%}" for w, o, width in found]
    print(f"{title:<20} {max(map(len, many)):>10} {' | '.join(cells)}", flush=True)


def _agreement(many: Sequence[Series], interval: Callable[[Series], Interval]) -> Interval:
    """Return the shares of pairs within and overlapping, and the median width of an interval."""
    known = [interval(series) for series in many]
    pairs = list(itertools.permutations(known, 2))
    within = [low <= again[0] <= high for (_, low, high), again in pairs]
    overlap = [one[1] <= other[2] and other[1] <= one[2] for one, other in pairs]
    width = [(high - low) / value for value, low, high in known]
    return float(np.mean(within)), float(np.mean(overlap)), float(np.median(width))


def _bootstrap(series: Series) -> Interval:
    """Return the median of the first process with its moving-block bootstrap interval."""
    parts = np.array_split(np.asarray(series[0]), min(20, len(series[0])))
    draws = np.random.default_rng(0).integers(len(parts), size=(200, len(parts)))
    medians = [float(np.median(np.concatenate([parts[i] for i in row]))) for row in draws]
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(series[0])), float(low), float(high)


def _synthetic(random: np.random.Generator, apart: float, disturbed: float, count: int) -> Series:
    series = []
    for _ in range(count):
        noise = random.normal(0, 0.004, 120)
        for i in range(1, len(noise)):
            noise[i] += 0.9 * noise[i - 1]
        noise += apart * random.normal()
        if random.random() < disturbed:
            start, end = np.sort(random.integers(0, len(noise) + 1, 2))
            noise[start:end] += random.uniform(0.1, 0.5)
        series.append([float(time) for time in np.exp(noise)])
    return series


def _measured(artifacts: Sequence[Path], times: int) -> dict[str, list[Series]]:
    """Return the latencies in each process of each measurement of each artifact."""
    places = [artifact.resolve() for artifact in artifacts]
    for place in places:  # once, rather than in every process
        catalogue.entry("runtime", checked(place)["runtime"])
    found: dict[str, list[Series]] = {place.name: [] for place in places}
    lane = MeasurementServer()
    try:
        with tempfile.TemporaryDirectory() as data:
            for _, place in itertools.product(range(times), places):
                taken = lane.recorded(place, None, split="validation", data=Path(data))
                found[place.name].append(taken.times["latency"])
    finally:
        lane.close()
    return found


if __name__ == "__main__":
    main()
