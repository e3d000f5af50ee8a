"""All that is known of one trial, as it is stored, told and reported."""

import dataclasses
import json
from typing import Any, Literal, Self, get_args

from objectives import Measurement
from search.records.facts import Facts
from spaces import Value

State = Literal["complete", "pruned", "infeasible", "failed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """All that is known of one trial; whatever is not complete says why in `reason`."""

    trial: int
    """Number of the trial in the study; 0 is the first baseline."""
    point: dict[str, Value]
    """One value per searched dimension, by its full name: `prune.channels.ratio`."""
    runtime: str
    state: State
    reason: str | None = None
    """One sentence: why the trial is not complete."""
    measurements: dict[str, Measurement] = dataclasses.field(default_factory=dict)
    """Objectives on the validation split, by name; those measured before a trial was stopped."""
    test: dict[str, Measurement] = dataclasses.field(default_factory=dict)
    """The same on the test split, which only members of the final front are measured on."""
    artifact: str | None = None
    """Folder of the exported files, relative to the run folder."""
    limits: dict[str, float] = dataclasses.field(default_factory=dict)
    """Violation of each limit of the experiment, by name; at most 0 is satisfied."""
    facts: Facts = dataclasses.field(default_factory=Facts)
    """What else was observed: weights removed, seconds by stage, cache hits."""
    note: str | None = None
    """A remark for whoever reads the report."""
    seconds: float = 0.0
    """Wall time spent on the trial."""

    def __post_init__(self) -> None:
        if self.state not in get_args(State):
            raise ValueError(f"a state is one of {', '.join(get_args(State))}, got {self.state!r}")
        if self.state != "complete" and not self.reason:
            raise ValueError(f"trial {self.trial} is {self.state}: it needs a reason")
        try:
            self.line()
        except (TypeError, ValueError) as error:
            raise ValueError(f"trial {self.trial} cannot be stored as JSON: {error}") from error

    @property
    def satisfied(self) -> bool:
        """Whether every limit of the experiment holds."""
        return all(violation <= 0 for violation in self.limits.values())

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return dataclasses.asdict(self) | {"facts": self.facts.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return the record that `to_json` described; unknown keys are refused.

        Raises TypeError on missing or unknown keys and ValueError on values out of range.
        """
        parts = {name: _measurements(data.get(name, {})) for name in ("measurements", "test")}
        return cls(**{**data, **parts, "facts": Facts.from_json(data.get("facts", {}))})

    def line(self) -> str:
        """Return the record as one line of strict JSON, without the line's end."""
        return json.dumps(self.to_json(), allow_nan=False, ensure_ascii=False)


def _measurements(data: dict[str, Any]) -> dict[str, Measurement]:
    return {name: Measurement(**fields) for name, fields in data.items()}
