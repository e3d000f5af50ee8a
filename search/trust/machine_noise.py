"""A/A test of this machine: two copies of one artifact timed in turns, which differ by noise."""

import contextlib
import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from objectives import Ratio
from search import catalogue
from search.errors import BadEnvironment, SearchError
from search.evaluation import TrialContext, export_unchanged
from search.experiment import Experiment
from search.measuring import ArtifactMeasurements, Crashed, MeasurementServer, Reference
from spaces import Point

OBJECTIVE = "latency"
NOISE_SECONDS = 8.0
"""Seconds of comparisons; with imports and the export the test takes about ten."""
ENDS = (0.05, 0.95)
"""Quantiles of the bursts that bound the pace."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """What comparisons of two copies of one artifact say of this machine now."""

    runtime: str
    ratios: tuple[Ratio, ...]
    """Ratio of the two copies in each comparison, which is 1 but for noise."""
    pace: tuple[float, float]
    """Fastest and slowest time of a burst, as shares of the median."""
    others: float
    """Share of the CPU that other processes used, from 0 to 1."""

    @property
    def smallest_difference(self) -> float:
        """Half the width of one comparison's 95 % interval, as a share: less cannot be told."""
        return statistics.median((r.high - r.low) / 2 / r.value for r in self.ratios)

    @property
    def held(self) -> int:
        """Number of comparisons whose interval contains 1."""
        return sum(r.low <= 1 <= r.high for r in self.ratios)


def noise(seconds: float = NOISE_SECONDS) -> Noise:
    """Compare two copies of the embedded network, as a search compares artifacts.

    It is exported unchanged for the first runtime that works here, and timed as often as `seconds`
    allow. Raises BadEnvironment if no runtime works.
    """
    experiment = Experiment.load(catalogue.home("search.experiment") / "digits.toml")
    with (
        tempfile.TemporaryDirectory() as place,
        # Started before the export computes: threads do not survive a fork.
        contextlib.closing(MeasurementServer(print_traces=False)) as server,
    ):
        folder = Path(place)
        runtime, point = _runtime(experiment)
        context = TrialContext(
            experiment=experiment,
            folder=folder,
            trial=0,
            server=server,
            progress=lambda stage, done, of, detail: None,
        )
        artifact = export_unchanged(context, point)
        copy = shutil.copytree(artifact, artifact.with_name("copy"))
        try:
            rounds = _compare(server, experiment, artifact, copy, context.cache / "data", seconds)
        except Crashed as error:
            raise BadEnvironment(f"{runtime} cannot be timed here: {error}") from error
    return _summary(runtime, rounds)


def _runtime(experiment: Experiment) -> tuple[str, Point]:
    """Return the first runtime that works here, compiled ones first, and its neutral point."""
    neutral, *others = experiment.runtime_names()
    reasons = []
    for name in (*others, neutral):
        try:
            experiment.runtime(name)
        except SearchError as error:
            reasons.append(str(error))
            continue
        named = experiment.space.named("runtime")
        return name, experiment.space.neutral() | ({named: name} if named else {})
    raise BadEnvironment(f"no runtime works here: {'; '.join(reasons)}")


def _compare(
    server: MeasurementServer,
    experiment: Experiment,
    artifact: Path,
    copy: Path,
    data: Path,
    seconds: float,
) -> list[ArtifactMeasurements]:
    """Return comparisons of an artifact with its copy, at least one."""
    unit = {OBJECTIVE: 1.0}  # the values are then the ratios
    ruler = Reference(artifact=copy, strategy=None, values=unit, baseline_values=unit)
    end = time.monotonic() + seconds
    rounds: list[ArtifactMeasurements] = []
    while not rounds or time.monotonic() < end:
        measured = server.measure(
            experiment, artifact, [OBJECTIVE], split="validation", data=data, reference=ruler
        )
        rounds.append(measured)
    return rounds


def _summary(runtime: str, rounds: Sequence[ArtifactMeasurements]) -> Noise:
    processes = [turns for r in rounds for turns in r.reference_times[OBJECTIVE]]
    bursts = [statistics.median(turn) for turns in processes for turn in turns]
    fastest, slowest = np.quantile(bursts, ENDS) / np.median(bursts)
    values = [r.measurements[OBJECTIVE] for r in rounds]
    return Noise(
        runtime=runtime,
        ratios=tuple(Ratio(value=m.value, low=m.low, high=m.high) for m in values),
        pace=(float(fastest), float(slowest)),
        others=statistics.fmean(float(r.conditions.get("others", 0.0)) for r in rounds),
    )
