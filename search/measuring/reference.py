"""Reference: the artifact with which others are timed in turns, as a run's ruler."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from objectives import Ratio
from search.records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """The artifact of the unchanged model in its fastest runtime, and its values in this run.

    Of the unchanged models the fastest is used because its bursts are short, and because programs
    of a similar kind suffer alike from a busy machine.
    """

    artifact: Path
    strategy: str | None
    """Strategy by which its devices share the work, if there are several."""
    values: Mapping[str, float]
    """Its value by objective, which stays the same for the whole run."""
    baseline_values: Mapping[str, float]
    """The baseline's value by objective."""
    ratios: Mapping[str, Ratio] = dataclasses.field(default_factory=dict)
    """Its ratio to the baseline by timed objective; empty if it is the baseline."""

    @classmethod
    def of(cls, job: Mapping[str, Any], run: Path) -> Self | None:
        """Return the reference that a job describes; None before there is one."""
        if job["reference"] is None:
            return None
        record = Record.from_json(job["reference"])
        values = {name: m.value for name, m in record.measurements.items()}
        return cls(
            artifact=run / str(record.artifact),
            strategy=record.facts.strategy,
            values=values,
            baseline_values=job["baseline_values"],
            ratios={name: m.ratio for name, m in record.measurements.items() if m.ratio},
        )
