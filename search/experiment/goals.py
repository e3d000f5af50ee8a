"""Goals of an experiment: each objective with its settings and limits."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from objectives import Direction, Objective, TimedObjective
from search import catalogue
from search.errors import BadExperiment
from search.experiment.fields import fields_of, instantiate, require
from spaces import encode

BOUNDS = ("within", "at_least", "at_most")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """One objective with the limits that an experiment sets on it."""

    name: str
    objective: Objective
    within: float | None = None
    """Largest loss against the baseline, in the objective's unit."""
    within_share: float | None = None
    """Largest loss against the baseline as a share of its magnitude, or of 1 for a score from 0 to
    1."""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def timed(self) -> bool:
        """True if the objective is a median of observations over time."""
        return isinstance(self.objective, TimedObjective)

    def to_json(self, folder: Path | None = None) -> dict[str, Any]:
        """Return settings and limits as an experiment's table; paths are relative to `folder`."""
        table: dict[str, Any] = settings_of(self.objective, folder)
        bounds = {bound: getattr(self, bound) for bound in BOUNDS}
        if self.within_share is not None:
            bounds["within"] = f"{100 * self.within_share:g}%"
        return table | {bound: value for bound, value in bounds.items() if value is not None}

    def violations(self, value: float, baseline: float) -> dict[str, float]:
        """Return by how much each limit is exceeded, by its name; at most 0 is satisfied."""
        violations = {}
        if (allowed := self.allowed(baseline)) is not None:
            worse = baseline - value if self.rising else value - baseline
            violations["within"] = worse - allowed
        if self.at_least is not None:
            violations["at_least"] = self.at_least - value
        if self.at_most is not None:
            violations["at_most"] = value - self.at_most
        return {f"{self.name}.{bound}": violation for bound, violation in violations.items()}

    def allowed(self, baseline: float) -> float | None:
        """Return the largest allowed loss against the baseline; None without a limit."""
        if self.within_share is None:
            return self.within
        return self.within_share * (1.0 if self.scored(baseline) else abs(baseline))

    def bound(self, baseline: float) -> float | None:
        """Return the worst value that the limits allow, None if they allow any.

        A bound on the good side, such as `at_most` of a score, is left out.
        """
        bounds = [self.at_least if self.rising else self.at_most]
        if (allowed := self.allowed(baseline)) is not None:
            bounds.append(baseline - allowed if self.rising else baseline + allowed)
        strictest = max if self.rising else min
        return strictest((b for b in bounds if b is not None), default=None)

    def scored(self, baseline: float) -> bool:
        """True if the baseline is a score from 0 to 1, of which a share is an absolute difference.

        5 % below 0.90 is then 0.85. For quantities and for other scores, such as negated errors, a
        share is relative to the baseline.
        """
        return not self.objective.positive and 0 <= baseline <= 1

    @property
    def rising(self) -> bool:
        """True if higher values are better."""
        return self.objective.direction is Direction.MAXIMIZE


def timed(goals: Iterable[Goal]) -> dict[str, TimedObjective]:
    """Return the timed objectives among the goals, by name."""
    return {g.name: g.objective for g in goals if isinstance(g.objective, TimedObjective)}


def settings_of(instance: Any, folder: Path | None = None) -> dict[str, Any]:
    """Return the fields of a catalogue entry as plain data; paths are relative to `folder`.

    Fields that are None by default are left out: TOML has no word for it.
    """
    fields = dataclasses.fields(instance) if dataclasses.is_dataclass(instance) else ()
    values = {f.name: (getattr(instance, f.name), f.default) for f in fields if f.init}
    return {
        name: encode(value, folder)
        for name, (value, default) in values.items()
        if value is not None or default is not None
    }


def goals_of(table: Mapping[str, Any], folder: Path) -> tuple[Goal, ...]:
    """Return the goals of the table `objectives`; raises SearchError for a wrong entry."""
    goals = []
    for name, settings in table.items():
        kind = catalogue.find("objective", name, Objective, folder)
        bounds = _bounds(f"objectives.{name}", settings)
        fields_given = settings
        if isinstance(settings, Mapping):
            fields_given = {k: v for k, v in settings.items() if k not in BOUNDS}
        fields = fields_of(kind, f"objectives.{name}", fields_given, extra=BOUNDS)
        objective = instantiate(kind, f"objectives.{name}", fields, folder)
        goals.append(Goal(name=name, objective=objective, **bounds))
    return tuple(goals)


def _bounds(where: str, table: Any) -> dict[str, Any]:
    """Return the limits in an objective's table as fields of a Goal."""
    limits: dict[str, Any] = {}
    for bound in BOUNDS if isinstance(table, Mapping) else ():
        if bound not in table:
            continue
        value = table[bound]
        share = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value) if isinstance(value, str) else None
        if bound == "within" and share:
            limits["within_share"] = float(share[1]) / 100
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
        limits[bound] = value
    return limits
