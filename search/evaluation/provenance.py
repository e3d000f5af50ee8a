"""Provenance of an artifact: the entries of its manifest that describe its origin."""

import dataclasses
from typing import Any

from search.experiment import Experiment
from search.records import Facts
from spaces import Plan, Point


def provenance(
    experiment: Experiment, trial: int, point: Point, plan: Plan, facts: Facts
) -> dict[str, Any]:
    """Return the entries of a manifest that describe the origin of an artifact."""
    described = experiment.task.describe()
    return {
        "trial": trial,
        "point": point,
        "placement": dataclasses.asdict(plan.placement),
        "folder": str(experiment.folder),
        **experiment.provenance(),
        "preprocessing": described.get("batches", "")
        or "inputs exactly as the task's batches() yields them",
        "facts": facts.to_json(),
    }
