"""A search without trials: records that are made up from the point that was asked."""

import dataclasses
from pathlib import Path

from objectives import Measurement
from search.experiment.experiment import Experiment
from search.records.record import Record
from search.study.known import Refuse
from search.study.study import PendingTrial, Study
from spaces import Point


def measured(value: float, unit: str) -> Measurement:
    return Measurement(value=value, unit=unit, low=value, high=value, samples=1)


def answer(asked: PendingTrial) -> Record:
    """Return a record that prefers pruning for speed and float weights for accuracy."""
    ratio = float(asked.point["prune.channels.ratio"])
    bits = float(asked.point["quantize.integer.weight_bits"])
    values = {
        "accuracy": measured(0.9 - 0.2 * ratio - (0.01 if bits == 8 else 0.0), "score"),
        "latency": measured((1.0 - ratio) * (0.5 + bits / 64), "ms"),
        "size": measured(1000 * (1 - ratio) * bits / 32, "bytes"),
    }
    return Record(
        trial=asked.trial,
        point=asked.point,
        runtime=str(asked.point["deploy.runtime.name"]),
        state="complete",
        measurements=values,
    )


def no_eager_integers(point: Point) -> str | None:
    eager = point["deploy.runtime.name"] == "eager"
    return "eager has no integers" if eager and point["quantize.integer.weight_bits"] == 8 else None


def opened(
    project: Path,
    trials: int = 30,
    *,
    refuse: Refuse = no_eager_integers,
) -> Study:
    experiment = Experiment.load(project / "experiment.toml")
    folder = project / "run"
    folder.mkdir(exist_ok=True)
    asked = dataclasses.replace(experiment, trials=trials)
    return Study.open(folder, asked, refuse)
