"""Each technique of the catalogue alone, and named combinations: accuracy, bytes, latency.

    python experiments/compression.py EXPERIMENT [--runtimes eager onnxruntime] [--steps 0 100]
        [--only quantize.mixed deploy.coding] [--points experiments/pairs.toml]
        [--target device=cuda batch_size=64] [--objectives size latency] [--out results.json]

EXPERIMENT is an experiment's file, or a folder with an experiment.toml, of which the task and the
target (device, threads, batch size; `--target` changes it) are taken. Every technique is taken at
up to three strengths, its weakest, middle and strongest setting; a points file names others, one
table a point:

    ["deep compression"]
    "quantize.clusters.bits" = 4
    "deploy.coding.coder" = "lzma"

Every point is evaluated by the same code as a search's: exported, loaded afresh, measured on the
validation split. The table goes to standard output, the records to `--out`.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import tomllib
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from objectives.artifacts import versions
from objectives.host import write_json
from search import catalogue
from search.evaluation import TrialContext, evaluate
from search.experiment import Experiment
from search.measuring import Crashed, MeasurementServer
from search.records import Record
from search.trial_process import FORKABLE
from spaces import Point, Space, Technique, said

STRENGTHS = 3
ELSEWHERE = ("deploy.runtime", "distill.logits")
"""Techniques not taken alone: each point is in every runtime, with every number of steps."""


def main() -> None:
    """Evaluate all points and tell what was found, whenever one is done."""
    asked = _arguments()
    warnings.simplefilter("ignore")
    os.environ |= FORKABLE  # some imports ask whether there is a GPU
    file = asked.experiment.resolve()
    file = file / "experiment.toml" if file.is_dir() else file
    named = {"unchanged": {}} | dict(_points(asked))
    experiment = _experiment(file, asked, named)
    lane = MeasurementServer()  # before anything is computed
    if experiment.target.device == "cpu":  # elsewhere building leaves what is measured alone
        torch.set_num_threads(1)
    records: list[dict[str, Any]] = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = asked.folder or Path(scratch)
            for record in _evaluated(experiment, lane, folder, named, asked):
                records.append(record)
                print(_line(record, records), flush=True)
                if asked.out:
                    _write(asked.out, experiment, records)
    finally:
        lane.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--runtimes", nargs="+", default=["eager", "onnxruntime", "openvino"])
    parser.add_argument("--steps", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", help="techniques; all by default, none: no-technique")
    parser.add_argument("--points", type=Path, help="a TOML file of named points")
    parser.add_argument("--objectives", nargs="+", default=["accuracy", "size", "latency"])
    parser.add_argument("--target", nargs="+", default=[], help="its fields, as in device=cuda")
    parser.add_argument("--batch-size", type=int, default=0, help="of training; 0 is automatic")
    parser.add_argument("--folder", type=Path, help="keep artifacts and caches in this folder")
    parser.add_argument("--out", type=Path, help="write records as JSON")
    return parser.parse_args()


def _points(asked: argparse.Namespace) -> Iterator[tuple[str, Point]]:
    """Yield points by title: each technique alone, then those of the file."""
    wanted = asked.only or [n for n in catalogue.names("technique") if n not in ELSEWHERE]
    for name in wanted:
        if name == "no-technique":
            continue
        for title, values in _strengths(catalogue.find("technique", name, Technique)):
            yield f"{name} {title}", {f"{name}.{field}": v for field, v in values.items()}
    if asked.points:
        yield from tomllib.loads(asked.points.read_text()).items()


def _strengths(kind: type[Technique]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield up to three values of each searched field, the neutral one left out."""
    neutral = kind()
    for field in dataclasses.fields(kind):
        if "dimension" not in field.metadata:
            continue
        grid = field.metadata["dimension"].values() or ()
        values = [v for v in grid if v != getattr(neutral, field.name)]
        count = min(STRENGTHS, len(values))
        places = {round(i * (len(values) - 1) / max(1, count - 1)) for i in range(count)}
        for value in (values[place] for place in sorted(places)):
            if dataclasses.replace(neutral, **{field.name: value}).canonical() != neutral:
                yield f"{field.name} {value}", {field.name: value}


def _experiment(file: Path, asked: argparse.Namespace, named: dict[str, Point]) -> Experiment:
    """Return an experiment that holds all points."""
    source = Experiment.load(file)
    values: dict[str, set[Any]] = {}
    for point in named.values():
        for name, value in point.items():
            values.setdefault(name, set()).add(value)
    values["deploy.runtime.name"] = set(asked.runtimes)
    values["distill.logits.steps"] = {0, *asked.steps}
    values["distill.logits.temperature"] = {1.0, 4.0}
    space: dict[str, dict[str, Any]] = {}
    for name, found in values.items():
        technique, _, field = name.rpartition(".")
        space.setdefault(technique, {})[field] = sorted(found, key=str)
    if asked.batch_size:
        space["distill.logits"]["batch_size"] = asked.batch_size
    changes = dict(change.split("=", 1) for change in asked.target)
    target = {k: int(v) if v.isdigit() else v for k, v in changes.items()}
    return Experiment(
        name="compression",
        task=source.task,
        target=dataclasses.replace(source.target, **target),
        space=dict(sorted(space.items())),
        objectives={name: {} for name in asked.objectives},
        folder=source.folder,
    )


def _evaluated(
    experiment: Experiment,
    lane: MeasurementServer,
    folder: Path,
    named: dict[str, Point],
    asked: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Yield a record for each point that differs, in each runtime, with each number of steps."""
    seen = set()
    cases = ((t, p, s, r) for t, p in named.items() for s in asked.steps for r in asked.runtimes)
    for title, part, steps, runtime in cases:
        own = {**part, "distill.logits.steps": steps, "deploy.runtime.name": runtime}
        own["distill.logits.temperature"] = 4.0 if steps else 1.0
        point = _whole(experiment.space, own)
        key = json.dumps(point, sort_keys=True)
        if key in seen:
            continue
        seen.add(key)
        record = _record(experiment, lane, folder, len(seen), point)
        yield {"title": title, "steps": steps, **record.to_json()}


def _whole(space: Space, part: Point) -> Point:
    return space.canonical({**space.neutral(), **part})


def _record(
    experiment: Experiment, lane: MeasurementServer, folder: Path, trial: int, point: Point
) -> Record:
    def told(stage: str, done: int, of: int, detail: str) -> None:
        if of and done % 10 == 0:
            print(f"\r{stage} {done}/{of} {detail}", end="", file=sys.stderr, flush=True)

    context = TrialContext(
        experiment=experiment, folder=folder, trial=trial, server=lane, progress=told
    )
    try:
        return evaluate(context, point)
    except Crashed as error:  # a row of the table; others follow
        traceback.print_exc()
        return Record(
            trial=trial,
            point=point,
            runtime=experiment.space.plan(point).runtime,
            state="failed",
            reason=said(error),
        )


def _line(record: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """Return a row of the Markdown table, with its heading before the first."""
    heading = (
        "| point | steps | runtime | accuracy | bytes | times smaller | latency, ms | faster |\n"
        "|---|---:|---|---:|---:|---:|---:|---:|\n"
        if len(records) == 1
        else ""
    )
    start = f"| {record['title']} | {record['steps']} | {record['runtime']} |"
    if record["state"] != "complete":
        return f"{heading}{start} {record['state']}: {record['reason']} | | | | |"
    found = {name: m["value"] for name, m in record["measurements"].items()}
    whole = _unchanged(record["runtime"], records)

    def times(name: str, value: float) -> str:
        return f"{whole[name] / value:.2f}" if name in whole else ""

    cells = {
        "accuracy": lambda v: f"{v:.4f}",
        "size": lambda v: f"{v:,.0f} | {times('size', v)}",
        "latency": lambda v: f"{v:.3f} | {times('latency', v)}",
    }
    empty = {"accuracy": "", "size": " | ", "latency": " | "}
    told = [cell(found[k]) if k in found else empty[k] for k, cell in cells.items()]
    return f"{heading}{start} {' | '.join(told)} |"


def _unchanged(runtime: str, records: list[dict[str, Any]]) -> dict[str, float]:
    """Return what the unchanged model measured in a runtime, nothing where it could not."""
    for record in records:
        if (record["title"], record["runtime"]) == ("unchanged", runtime):
            return {name: m["value"] for name, m in record["measurements"].items()}
    return {}


def _write(path: Path, experiment: Experiment, records: list[dict[str, Any]]) -> None:
    runtimes = map(experiment.runtime, experiment.runtime_names())
    content = {"versions": versions(*runtimes), "experiment": experiment.to_json()}
    write_json(path, content | {"records": records})


if __name__ == "__main__":
    main()
