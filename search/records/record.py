"""Record: the result of one trial, as it is stored and reported."""

import dataclasses
import json
from typing import Any, Literal, Self, get_args

from objectives import Measurement
from search.records.facts import Facts
from spaces import Value

State = Literal["complete", "pruned", "infeasible", "failed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The result of one trial; `reason` is set unless the trial is complete."""

    trial: int
    """Number of the trial in the study; 0 is the first baseline."""
    point: dict[str, Value]
    """One value per searched dimension, by its full name: `prune.channels.ratio`."""
    runtime: str
    state: State
    reason: str | None = None
    """Why the trial is not complete, in one sentence."""
    measurements: dict[str, Measurement] = dataclasses.field(default_factory=dict)
    """Objectives on the validation split, by name. A stopped trial has those measured before it
    was stopped."""
    test: dict[str, Measurement] = dataclasses.field(default_factory=dict)
    """Objectives on the test split, by name; measured for members of the final front only."""
    artifact: str | None = None
    """Folder of the exported files, relative to the run folder."""
    limits: dict[str, float] = dataclasses.field(default_factory=dict)
    """Violation of each limit of the experiment, by name; at most 0 is satisfied."""
    facts: Facts = dataclasses.field(default_factory=Facts)
    """Other observations, such as weights removed and seconds by stage."""
    note: str | None = None
    """Remarks for the readers of a report."""
    seconds: float = 0.0
    """Wall time of the trial, in seconds."""

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
        """True if every limit of the experiment holds."""
        return all(violation <= 0 for violation in self.limits.values())

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data."""
        values = {
            name: {k: m.to_json() for k, m in getattr(self, name).items()}
            for name in ("measurements", "test")
        }
        return dataclasses.asdict(self) | values | {"facts": self.facts.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return the record that `to_json` described.

        Raises TypeError on missing or unknown keys and ValueError on values out of range.
        """
        parts = {name: _measurements(data.get(name, {})) for name in ("measurements", "test")}
        return cls(**{**data, **parts, "facts": Facts.from_json(data.get("facts", {}))})

    def line(self) -> str:
        """Return the record as one line of strict JSON, without a newline."""
        return json.dumps(self.to_json(), allow_nan=False, ensure_ascii=False)


def _measurements(data: dict[str, Any]) -> dict[str, Measurement]:
    return {name: Measurement.from_json(fields) for name, fields in data.items()}
