"""Time artifacts again in turns: the ratios of their times to those of one of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from objectives import Ratio
from search.errors import BadArtifact, BadEnvironment, BadRun
from search.experiment import Experiment, timed
from search.measuring import Crashed, MeasurementServer
from search.records import Record
from spaces import Infeasible

Ratios = dict[str, Ratio]
"""Ratios by timed objective."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """An artifact to be timed."""

    artifact: Path
    strategy: str | None = None
    """Strategy by which its devices share the work, if there are several."""

    @classmethod
    def of(cls, folder: Path, record: Record) -> "Timed":
        """Return the artifact of a record; raises BadRun if the run folder does not have it."""
        artifact = folder / str(record.artifact)
        if record.artifact is None or not artifact.is_dir():
            raise BadRun(f"{folder} does not keep the artifact of trial {record.trial}")
        return cls(artifact=artifact.resolve(), strategy=record.facts.strategy)


def ratios(
    server: MeasurementServer, experiment: Experiment, artifacts: Sequence[Timed], data: Path
) -> list[Ratios]:
    """Return the ratios of each artifact's times to those of the first one, taken in turns.

    `data` is the folder of stored splits. Raises BadArtifact if they cannot be measured, and
    BadEnvironment if this machine lacks what they need.
    """
    try:
        values, _ = server.interleave(
            experiment,
            {a.artifact: a.strategy for a in artifacts},
            values=dict.fromkeys(timed(experiment.objectives), 1.0),
            data=data,
        )
    except Crashed as error:
        raise BadArtifact(f"the artifacts cannot be measured: {error}") from error
    except Infeasible as error:
        raise BadEnvironment(f"the artifacts cannot be measured here: {error}") from error
    return [
        {
            name: Ratio(value=m.value, low=m.low, high=m.high)
            for name, m in values[str(a.artifact)].items()
        }
        for a in artifacts
    ]
