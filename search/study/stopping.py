"""Rungs: where a trial under way is held against those that have come as far."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from objectives import Measurement
from search.experiment import Goal
from search.study.dominance import front_numbers

PROBE = "probe"
"""The rung before training, of what does not depend on it."""
SHARES = (0.25, 0.5)
"""Of the steps of a training, after which it is held against others."""
WORTHWHILE = 100
"""Steps from which on a training has rungs: shorter ones are over before they could be judged."""
FEWEST = 4
"""Trials that a rung must have seen before one is stopped there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
    """How far a trial has come, and what was found of it by then."""

    name: str
    found: dict[str, Measurement]
    """Measurements by objective; at a training's rungs the score is an estimate."""

    def to_json(self) -> dict[str, Any]:
        """Return the rung as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the rung that `to_json` described."""
        found = {name: Measurement(**fields) for name, fields in data["found"].items()}
        return cls(name=data["name"], found=found)


def rungs(steps: int) -> dict[int, str]:
    """Return the names of a training's rungs by the step that reaches them."""
    if steps < WORTHWHILE:
        return {}
    return {round(share * steps): f"{share:.0%} of training" for share in SHARES}


class Ladder:
    """What trials have shown at each rung of their training, as one search goes on."""

    def __init__(self, goals: Sequence[Goal]) -> None:
        self._goals = goals
        self._seen: dict[str, dict[int, tuple[float, ...]]] = {}

    def judge(self, trial: int, rung: Rung) -> str | None:
        """Return why a trial should be stopped at a rung, None if it should go on.

        Asynchronous successive halving (Li et al. 2020) with the trials ranked by non-domination
        (Schmucker et al. 2021, MO-ASHA): a trial stops when at least half of those that came as
        far are on better fronts. The first front never stops. Rungs are shares of the training
        rather than steps, since the learning rate falls along each one's own schedule.
        """
        if not all(goal.name in rung.found for goal in self._goals):
            return None
        seen = self._seen.setdefault(rung.name, {})
        seen[trial] = tuple(self._cost(goal, rung.found[goal.name]) for goal in self._goals)
        if len(seen) < FEWEST:
            return None
        fronts = dict(zip(seen, front_numbers(list(seen.values())), strict=True))
        ahead = sum(front < fronts[trial] for front in fronts.values())
        if fronts[trial] == 0 or 2 * ahead < len(seen):
            return None
        return f"after {rung.name}, {ahead} of {len(seen)} trials are on better fronts"

    @staticmethod
    def _cost(goal: Goal, found: Measurement) -> float:
        return -found.value if goal.rising else found.value
