"""Times artifacts by tools that are not ours, and tells how far they agree with our values.

    python experiments/agreement.py RUN_OR_EXPERIMENT [--artifacts 20] [--rounds 3] [--out FILE]

Of a finished run, the artifacts that it kept are taken. Of an experiment (a file, or a folder with
an experiment.toml), artifacts of its task are exported untrained: pruned by several ratios, in
floats and in 8 bits, in the usual runtimes. OpenVINO's are timed by its benchmark_app, ONNX
Runtime's by a plain loop as in onnxruntime_perf_test, PyTorch's by torch.utils.benchmark, all on
GPUs by CUDA events: `clocks/`. Each such time is of a fresh process with as many threads and cores
as ours. In each round all artifacts are timed in a new order, by the other tool and by us, so that
the machine's changing pace hits all of them. Ours is the value that a search gives, in turns with a
reference, from up to six processes that are spread over the rounds.
"""

import argparse
import dataclasses
import functools
import math
import os
import random
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _agreement import (
    STATISTICS,
    Agreement,
    Row,
    Spread,
    Timing,
    agreement,
    as_json,
    sentences,
    table,
)
from _candidates import TIME, Candidates, loaded, of_experiment, of_run, scratch
from _foreign import Foreign, Unusable, tool

from objectives.host import cores, processor, write_json
from search.experiment import Experiment, timed
from search.measuring import ArtifactMeasurements, MeasurementServer, checked, worker
from search.trial_process import FORKABLE

Measure = Callable[..., ArtifactMeasurements]


def main() -> None:
    """Time all artifacts in all rounds and print what was found."""
    asked = _arguments()
    warnings.simplefilter("ignore")
    os.environ |= FORKABLE  # some imports ask whether there is a GPU
    source = asked.source.resolve()
    file = source / "experiment.toml" if source.is_dir() else source
    experiment = loaded(file, asked.runtimes)
    server = MeasurementServer()  # before anything is computed
    torch.set_num_threads(1)
    try:
        with scratch() as folder:
            _compare(asked, experiment, server, Path(folder))
    finally:
        server.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="a finished run, or an experiment")
    parser.add_argument("--artifacts", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each foreign process")
    parser.add_argument("--fresh", type=int, default=10, help="repetitions of one of our values")
    parser.add_argument("--runtimes", nargs="+", help="only these")
    parser.add_argument("--out", type=Path, help="keep everything measured as JSON")
    asked = parser.parse_args()
    if asked.artifacts < 1 or asked.rounds < 1 or asked.fresh < 2:
        parser.error("at least one artifact, one round and two fresh measurements are needed")
    return asked


def _compare(
    asked: argparse.Namespace, experiment: Experiment, server: MeasurementServer, folder: Path
) -> None:
    """Time, print and store."""
    start = time.perf_counter()
    candidates = _candidates(asked, experiment, server, folder)
    built = time.perf_counter()
    candidates.write_inputs(folder / "inputs")
    foreign = Foreign(inputs=folder / "inputs", scratch=folder, seconds=asked.seconds)
    measure = functools.partial(
        server.measure,
        candidates.experiment,
        names=[TIME],
        split="validation",
        data=candidates.data,
        reference=candidates.reference,
    )
    rows = _rounds(candidates, foreign, measure, asked.rounds)
    fresh = _fresh(rows, candidates, measure, asked.fresh)
    device = candidates.experiment.target.device
    found = {name: agreement(rows, statistic, device) for name, statistic in STATISTICS.items()}
    print(f"{processor()}, {cores()} cores, {asked.rounds} rounds\n")
    print(table(rows, device) + "\n")
    _print(found, fresh, device)
    ends = time.perf_counter()
    print(f"{built - start:.0f} s to build, {ends - built:.0f} s to time")
    if asked.out:
        machine = {"processor": processor(), "cores": cores(), "rounds": asked.rounds}
        content = machine | as_json(rows, found) | {"fresh": fresh}
        write_json(asked.out, content)


def _candidates(
    asked: argparse.Namespace, experiment: Experiment, server: MeasurementServer, folder: Path
) -> Candidates:
    count, run = asked.artifacts, asked.source.resolve()
    if (run / "front.json").is_file():
        found = of_run(experiment, run, count, asked.runtimes)
    else:
        found = of_experiment(experiment, count, asked.runtimes, server, folder)
    if len(found.artifacts) < count:
        print(f"only {len(found.artifacts)} artifacts", file=sys.stderr)
    return found


def _rounds(candidates: Candidates, foreign: Foreign, measure: Measure, rounds: int) -> list[Row]:
    """Return a row for each artifact, timed by both in each round."""
    shuffle, order = random.Random(0), list(candidates.artifacts)
    theirs: dict[str, list[Timing]] = {title: [] for title in order}
    ours: dict[str, ArtifactMeasurements] = {}
    for number in range(rounds):
        shuffle.shuffle(order)
        for place, title in enumerate(list(order)):
            done = f"\rround {number + 1} of {rounds}: {place + 1} of {len(order)}"
            print(done, end="", file=sys.stderr, flush=True)
            artifact = candidates.artifacts[title]
            try:
                theirs[title].append(foreign.timing(artifact, checked(artifact)))
            except Unusable as error:
                print(f"\n{title} is not compared: {error}", file=sys.stderr)
                order.remove(title)
                continue
            limit = math.ceil(worker.PROCESSES * (number + 1) / rounds)
            ours[title] = measure(artifact, limit=limit, known=ours.get(title))
        print(file=sys.stderr)
    if not order:
        raise SystemExit("no artifact could be timed by another tool")
    return [_row(t, candidates.artifacts[t], ours[t], theirs[t]) for t in sorted(order)]


def _row(title: str, artifact: Path, ours: ArtifactMeasurements, theirs: list[Timing]) -> Row:
    manifest, value = checked(artifact), ours.measurements[TIME]
    return Row(
        artifact=title,
        runtime=manifest["runtime"],
        tool=tool(manifest),
        ours=value.value,
        interval=(value.low, value.high),
        theirs=tuple(theirs),
    )


def _fresh(rows: list[Row], candidates: Candidates, measure: Measure, count: int) -> dict[str, Any]:
    """Return our value of the artifact of median speed, `count` times, and that of each process."""
    title = sorted(rows, key=lambda row: row.ours)[len(rows) // 2].artifact
    objective = timed(candidates.experiment.objectives)[TIME]
    reference, device = candidates.reference, candidates.experiment.target.device
    values, single = [], []
    for number in range(count):
        done = f"\rfresh measurement {number + 1} of {count}"
        print(done, end="", file=sys.stderr, flush=True)
        found = measure(candidates.artifacts[title])
        values.append(found.measurements[TIME].value)
        pairs = zip(found.times[TIME], found.reference_times[TIME], strict=True)
        own = reference.values[TIME]
        single += [objective.relative([t], [r], own, device).value for t, r in pairs]
    print(file=sys.stderr)
    return {
        "artifact": title,
        "values": values,
        "processes": single,
        "spread": dataclasses.asdict(Spread.of(values)),
        "spread_of_processes": dataclasses.asdict(Spread.of(single)),
    }


def _print(found: dict[str, Agreement], fresh: dict[str, Any], device: str) -> None:
    for line in sentences(found, device):
        print(line)
    print(
        f"our value of {fresh['artifact']} in {len(fresh['values'])} fresh measurements: "
        f"{Spread.of(fresh['values'])}; in their {len(fresh['processes'])} single processes: "
        f"{Spread.of(fresh['processes'])}"
    )


if __name__ == "__main__":
    main()
