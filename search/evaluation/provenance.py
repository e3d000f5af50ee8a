"""Provenance: what an artifact's manifest says of where it comes from."""

import dataclasses
from typing import Any

from search.experiment import Experiment
from search.records import Facts
from spaces import Plan, Point


def provenance(
    experiment: Experiment, trial: int, point: Point, plan: Plan, facts: Facts
) -> dict[str, Any]:
    """Return the entries of a manifest that say where an artifact comes from."""
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
