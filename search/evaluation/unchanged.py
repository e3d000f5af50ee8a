"""Export the unchanged model to an artifact, without a trial."""

from pathlib import Path

from objectives import artifacts
from search.evaluation.build import Builder
from search.evaluation.context import TrialContext
from search.evaluation.provenance import provenance
from search.records import Facts
from spaces import Point


def export_unchanged(context: TrialContext, point: Point) -> Path:
    """Export the task's model at a neutral point; return the artifact's folder."""
    experiment = context.experiment
    plan = experiment.space.plan(point)
    builder = Builder.of(context, point)
    export, _ = builder.encode(builder.reference, plan)
    origin = provenance(experiment, context.trial, point, plan, Facts())
    runtime = experiment.runtime(plan.runtime)
    artifacts.write(context.artifact, plan.runtime, runtime, export, origin)
    return context.artifact
