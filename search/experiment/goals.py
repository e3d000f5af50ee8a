"""What an experiment asks of each objective: its settings and its limits."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from objectives import Direction, Objective, TimedObjective
from search import catalogue
from search.errors import BadExperiment
from search.experiment.fields import built, fields_of, require
from spaces import encode

BOUNDS = ("within", "at_least", "at_most")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """One objective with the limits that this experiment sets on it."""

    name: str
    objective: Objective
    within: float | None = None
    """At most this much worse than the baseline, in the objective's unit."""
    within_share: float | None = None
    """The same as a share of the baseline's size, which for a score from 0 to 1 is the whole 1."""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def timed(self) -> bool:
        """Whether the value is a median of observations over time."""
        return isinstance(self.objective, TimedObjective)

    def to_json(self, folder: Path | None = None) -> dict[str, Any]:
        """Return settings and limits as an experiment names them; paths relative to `folder`."""
        table: dict[str, Any] = settings_of(self.objective, folder)
        bounds = {bound: getattr(self, bound) for bound in BOUNDS}
        if self.within_share is not None:
            bounds["within"] = f"{100 * self.within_share:g}%"
        return table | {bound: value for bound, value in bounds.items() if value is not None}

    def violations(self, value: float, baseline: float) -> dict[str, float]:
        """Return how far each limit is overstepped; zero and below is satisfied."""
        found = {}
        if (allowed := self.allowed(baseline)) is not None:
            worse = baseline - value if self.rising else value - baseline
            found["within"] = worse - allowed
        if self.at_least is not None:
            found["at_least"] = self.at_least - value
        if self.at_most is not None:
            found["at_most"] = value - self.at_most
        return {f"{self.name}.{bound}": violation for bound, violation in found.items()}

    def allowed(self, baseline: float) -> float | None:
        """Return how much worse than the baseline is allowed; None is without a limit."""
        if self.within_share is None:
            return self.within
        return self.within_share * (1.0 if self.scored(baseline) else abs(baseline))

    def scored(self, baseline: float) -> bool:
        """Whether values are scores from 0 to 1, of which a share is meant in points.

        5 % below 0.90 is then 0.85. Scores outside of that, such as errors with their sign turned,
        and quantities have no such scale.
        """
        return not self.objective.positive and 0 <= baseline <= 1

    @property
    def rising(self) -> bool:
        """Whether more is better."""
        return self.objective.direction is Direction.MAXIMIZE


def timed(goals: Iterable[Goal]) -> dict[str, TimedObjective]:
    """Return those of the objectives that are medians of observations over time, by name."""
    return {g.name: g.objective for g in goals if isinstance(g.objective, TimedObjective)}


def settings_of(instance: Any, folder: Path | None = None) -> dict[str, Any]:
    """Return the fields of a catalogue's entry as plain data, paths relative to `folder`."""
    fields = dataclasses.fields(instance) if dataclasses.is_dataclass(instance) else ()
    return {f.name: encode(getattr(instance, f.name), folder) for f in fields if f.init}


def goals_of(table: Mapping[str, Any], folder: Path) -> tuple[Goal, ...]:
    """Return the goals of the table `objectives`; raises SearchError in one line."""
    goals = []
    for name, given in table.items():
        kind = catalogue.find("objective", name, Objective, folder)
        bounds = _bounds(f"objectives.{name}", given)
        rest = given
        if isinstance(given, Mapping):
            rest = {k: v for k, v in given.items() if k not in BOUNDS}
        fields = fields_of(kind, f"objectives.{name}", rest, extra=BOUNDS)
        objective = built(kind, f"objectives.{name}", fields, folder)
        goals.append(Goal(name=name, objective=objective, **bounds))
    return tuple(goals)


def _bounds(where: str, given: Any) -> dict[str, Any]:
    """Return the limits of an objective as fields of a Goal."""
    found: dict[str, Any] = {}
    for bound in BOUNDS if isinstance(given, Mapping) else ():
        if bound not in given:
            continue
        value = given[bound]
        share = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value) if isinstance(value, str) else None
        if bound == "within" and share:
            found["within_share"] = float(share[1]) / 100
            continue
        if bound == "within" and isinstance(value, str):
            raise BadExperiment(
                f'{where}.within must be a number or a share as "5%", got {value!r}'
            )
        require(float, f"{where}.{bound}", value)
        if bound == "within" and value < 0:
            raise BadExperiment(
                f"{where}.within must be 0 or more, got {value}: it is how much worse than the "
                "unchanged model is allowed"
            )
        found[bound] = value
    return found
