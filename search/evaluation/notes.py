"""What is written beside a candidate: where it comes from, and what its readers should know."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from objectives.exporting import RECORDED
from search.evaluation.facts import sentences
from search.experiment import Experiment
from spaces import Plan, Point


def note(facts: Mapping[str, Any]) -> str | None:
    """Return what whoever reads of this trial should know, in whole sentences."""
    found = sentences(facts)
    found += [facts[k] for k in ("zeros", "remark") if k in facts]
    if (how := facts.get("conditions", {}).get("execution", RECORDED)) != RECORDED:
        found.append(f"Its kernels are launched one by one: {how}.")
    trained = facts.get("recovery", {"kept": True})
    if not trained["kept"]:
        found.append(
            f"Recovery training raised the loss from {trained['before']:.3g} to "
            f"{trained['after']:.3g} and was taken back."
        )
    return " ".join(found) or None


def provenance(
    experiment: Experiment, trial: int, point: Point, plan: Plan, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what an artifact's manifest says of where it comes from."""
    described = experiment.task.describe()
    return {
        "trial": trial,
        "point": point,
        "placement": dataclasses.asdict(plan.placement),
        "task": {
            "name": described["name"],
            "settings": dataclasses.asdict(experiment.task),  # type: ignore[call-overload]
        },
        "objectives": {g.name: dataclasses.asdict(g.objective) for g in experiment.goals},
        "preprocessing": described.get("batches", "")
        or "inputs exactly as the task's batches() yields them",
        "facts": facts,
    }
