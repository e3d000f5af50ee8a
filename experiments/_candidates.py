"""Artifacts to be timed: those that a run kept, or untrained ones of an experiment's task."""

import dataclasses
import functools
import itertools
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _foreign import Unusable, refuse
from _reference import reference_of_run

from objectives import Target, cached
from search import open as open_run
from search.evaluation import TrialContext, evaluate
from search.experiment import Experiment
from search.measuring import MeasurementServer, Reference, checked
from search.records import Record
from spaces import Point
from spaces.modules import flatten, rows

TIME = "latency"
RATIOS = [0.0, 0.3, 0.6, 0.45, 0.15]
"""Pruning ratios, in the order in which they are built."""
RUNTIMES = {
    "cpu": ["openvino", "onnxruntime", "eager", "inductor"],
    "cuda": ["eager", "inductor"],
}
"""The usual runtimes by device type."""
ENCODINGS: Mapping[str, Sequence[Point]] = {
    "cpu": [{}, {"quantize.integer.weight_bits": 8, "quantize.integer.activation_bits": 8}],
    "cuda": [{}, {"precision.compute.dtype": "bfloat16"}],
}
COMPILED = 3
"""Most artifacts of Inductor, each of which takes long to compile."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """Artifacts of one task at one target, and what measures them."""

    experiment: Experiment
    """One whose objectives include the latency."""
    data: Path
    """Folder of the cached splits."""
    artifacts: dict[str, Path]
    """Folder of each artifact by its title."""
    reference: Reference

    def write_inputs(self, folder: Path) -> None:
        """Write one batch of the validation split, a NAME.npy for each input."""
        folder.mkdir()
        names = checked(next(iter(self.artifacts.values())))["signature"]["input_names"]
        examples = cached(self.experiment.task, "validation", self.data)
        size = self.experiment.target.batch_size
        tensors, _ = flatten(rows(examples.inputs, slice(0, size)))
        for name, tensor in zip(names, tensors, strict=True):
            np.save(folder / f"{name}.npy", tensor.contiguous().numpy())


def loaded(file: Path, runtimes: Sequence[str] | None) -> Experiment:
    """Return an experiment; processes that are forked later need not import its runtimes."""
    experiment = Experiment.load(file)
    for name in runtimes or RUNTIMES[experiment.target.device]:
        experiment.runtime(name)
    return experiment


def of_run(source: Experiment, run: Path, count: int, runtimes: Sequence[str] | None) -> Candidates:
    """Return up to `count` artifacts that a finished run kept, from the fastest to the slowest."""
    summary = open_run(run).summary
    kept: dict[str, Record] = {}
    for record in summary.records:
        if record.artifact and TIME in record.measurements and (run / record.artifact).is_dir():
            if runtimes and record.runtime not in runtimes:
                continue
            if _usable(run / record.artifact):
                kept.setdefault(record.facts.identity or record.artifact, record)
    found = sorted(kept.values(), key=lambda record: record.measurements[TIME].value)
    places = {round(i) for i in np.linspace(0, len(found) - 1, min(count, len(found)))}
    chosen = [found[place] for place in sorted(places)]
    return Candidates(
        experiment=source,
        data=run / "cache" / "data",
        artifacts={f"trial {r.trial}": run / str(r.artifact) for r in chosen},
        reference=reference_of_run(source, summary, run),
    )


def _usable(artifact: Path) -> bool:
    """True if another tool can run an artifact; says so if not."""
    try:
        refuse(checked(artifact))
    except Unusable as error:
        print(f"{artifact.name} is left out: {error}", file=sys.stderr)
        return False
    return True


def of_experiment(
    source: Experiment,
    count: int,
    runtimes: Sequence[str] | None,
    server: MeasurementServer,
    folder: Path,
) -> Candidates:
    """Export `count` artifacts of an experiment's task and target into `folder`, untrained."""
    chosen = runtimes or RUNTIMES[source.target.device]
    experiment = functools.partial(_experiment, source, chosen)
    built = itertools.islice(_built(experiment("size"), chosen, server, folder), count)
    artifacts = dict(built)
    timing = experiment(TIME)
    data = folder / "cache" / "data"
    return Candidates(
        experiment=timing,
        data=data,
        artifacts=artifacts,
        reference=_reference(timing, data, artifacts, server),
    )


def _experiment(source: Experiment, runtimes: Sequence[str], objective: str) -> Experiment:
    """Return an experiment that holds all points, with one objective."""
    space: dict[str, dict[str, Any]] = {
        "prune.channels": {"ratio": sorted(RATIOS)},
        "deploy.runtime": {"name": list(runtimes)},
    }
    if source.target.device == "cpu":
        space["quantize.integer"] = {"weight_bits": [32, 8], "activation_bits": [32, 8]}
    else:
        space["precision.compute"] = {"dtype": ["float32", "bfloat16"]}
    return Experiment(
        name="agreement",
        task=source.task,
        target=source.target,
        space=space,
        objectives={objective: {}},
        folder=source.folder,
    )


def _built(
    experiment: Experiment, runtimes: Sequence[str], server: MeasurementServer, folder: Path
) -> Iterator[tuple[str, Path]]:
    """Yield artifacts with their titles, those that the runtimes can execute."""
    compiled = 0
    for number, (title, part) in enumerate(_points(experiment.target, runtimes)):
        if part["deploy.runtime.name"] == "inductor" and compiled == COMPILED:
            continue
        print(f"building {title}", file=sys.stderr, flush=True)
        context = TrialContext(
            experiment=experiment,
            folder=folder,
            trial=number,
            server=server,
            progress=lambda *_: None,
        )
        space = experiment.space
        record = evaluate(context, space.canonical({**space.neutral(), **part}))
        if record.state != "complete":
            print(f"{title} is left out: {record.reason}", file=sys.stderr)
        elif _usable(context.artifact):
            compiled += record.runtime == "inductor"
            yield title, context.artifact


def _points(target: Target, runtimes: Sequence[str]) -> Iterator[tuple[str, Point]]:
    """Yield points with their titles; the first ones are the unchanged models."""
    encodings = ENCODINGS[target.device]
    for ratio, encoding, runtime in itertools.product(RATIOS, encodings, runtimes):
        if runtime == "eager" and "quantize.integer.weight_bits" in encoding:
            continue  # without kernels for convolutions
        if runtime == "inductor" and encoding:
            continue  # one encoding, so that the few that are compiled differ in size
        words = [str(v) for v in encoding.values()]
        title = f"{runtime} prune {ratio:g}" + (f" {'/'.join(words)}" if words else "")
        yield title, {"prune.channels.ratio": ratio, "deploy.runtime.name": runtime, **encoding}


def _reference(
    experiment: Experiment, data: Path, artifacts: Mapping[str, Path], server: MeasurementServer
) -> Reference:
    """Return the fastest of the unchanged models as the reference, measured by itself."""
    found = {}
    for artifact in artifacts.values():
        point = checked(artifact)["point"]
        if point == experiment.space.neutral() | {
            "deploy.runtime.name": point["deploy.runtime.name"]
        }:
            measured = server.measure(experiment, artifact, [TIME], split="validation", data=data)
            found[artifact] = measured.measurements[TIME].value
    if not found:
        raise SystemExit("no runtime could export the unchanged model, which is the reference")
    fastest = min(found, key=lambda artifact: found[artifact])
    values = {TIME: found[fastest]}
    return Reference(artifact=fastest, strategy=None, values=values, baseline_values=values)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder for artifacts, caches and inputs."""
    return tempfile.TemporaryDirectory(prefix="agreement-")
