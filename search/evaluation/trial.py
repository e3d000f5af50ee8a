"""Evaluate one point: shape, prepare, probe, train, encode, deploy, measure.

Depends on no study, no Ray and no MLflow: a point and its context come in, a Record comes out.
"""

import dataclasses
import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from objectives import Measurement, artifacts
from objectives.artifacts import versions
from objectives.metrics.latency import Latency
from search.evaluation.alone import TrialTools
from search.evaluation.build import Builder, manifest_facts
from search.evaluation.context import Pruned, TrialContext
from search.evaluation.estimate import estimate_scores
from search.evaluation.provenance import provenance
from search.evaluation.roofline import roofline_facts
from search.experiment import kinds_of, refusal, timed
from search.measuring import PROBING, ArtifactMeasurements, Crashed
from search.records import PROBE, Facts, Impossible, Record, Rung, State
from spaces import Infeasible, Point, Prepared, Recovery, sentence
from spaces.modules import placed, workplace
from spaces.training import recovery


def evaluate(context: TrialContext, point: Point) -> Record:
    """Build, export and measure the candidate at `point`; return its record.

    A reason that belongs to the point, such as an infeasible export, becomes a record. Faults of
    the user's code or of the machine are raised.
    """
    trial = Trial(context, point)
    try:
        state, reason = trial.run()
    except Infeasible as error:
        traceback.print_exception(error)  # the log gets the details, the record one sentence
        state, reason = "infeasible", sentence(str(error))
        trial.learn(
            impossible=Impossible(stage=trial.stage, technique=trial.editing, scope=error.scope)
        )
    except recovery.Diverged as error:
        state, reason = "failed", str(error)
    if state != "complete":
        shutil.rmtree(context.artifact, ignore_errors=True)
    return trial.record(state, reason)


class Trial:
    """One running trial: its stages in order, with the facts and measurements so far."""

    def __init__(self, context: TrialContext, point: Point) -> None:
        self.context, self.experiment, self.point = context, context.experiment, point
        self.plan = self.experiment.space.plan(point)
        self.facts = Facts()
        self.measurements: dict[str, Measurement] = {}
        self.clock: dict[str, float] = {}
        self.stage = ""
        self.editing: str | None = None
        """Technique whose edit of the shape began last."""
        self._untrained: ArtifactMeasurements | None = None
        self._saved: Mapping[str, float] = {}

    def run(self) -> tuple[State, str | None]:
        """Run all stages; return the final state, and the reason if the trial is not complete."""
        builder: Builder = self._timed("reference", lambda: Builder.of(self.context, self.point))
        self._saved = builder.cache.saved
        if reason := refusal(self.experiment, self.plan, kinds_of(builder.reference)):
            return "infeasible", reason
        model: nn.Module = self._timed("shape", lambda: self._shape(builder))
        self._timed("prepare", lambda: self._prepare(builder, model))
        training = self.plan.recovery.steps > 0
        try:
            self._timed("probe", lambda: self._probe(builder, model, final=not training))
            if training:
                model = self._timed("train", lambda: self._train(builder, model))
                self._timed("deploy", lambda: self._deploy(builder, model, self.context.artifact))
                self._timed("measure", lambda: self._measure(self.context.artifact, trained=False))
        except Pruned as error:
            return "pruned", str(error)
        self._timed("measure", lambda: self._measure(self.context.artifact, trained=True))
        self._timed("measure", self._measure_again)
        self._timed("profile", self._ask)
        artifacts.annotate(
            self.context.artifact,
            measurements={k: m.to_json() for k, m in self.measurements.items()},
            facts=self.facts.to_json(),
        )
        return "complete", None

    def export_untrained(self, folder: Path) -> None:
        """Write the candidate into `folder` as an artifact, without recovery training.

        Raises Infeasible if it cannot be built.
        """
        builder = Builder.of(self.context, self.point)
        if reason := refusal(self.experiment, self.plan, kinds_of(builder.reference)):
            raise Infeasible(reason)
        model = self._shape(builder)
        self._prepare(builder, model)
        self._deploy(builder, model, folder)

    def record(self, state: State, reason: str | None) -> Record:
        """Return the record of the trial in its final state."""
        self.learn(seconds={stage: round(seconds, 3) for stage, seconds in self.clock.items()})
        if self._saved:
            self.learn(saved={stage: round(seconds, 3) for stage, seconds in self._saved.items()})
        known, number = self.measurements, self.context.trial
        return Record(
            trial=number,
            point=dict(self.point),
            runtime=self.plan.runtime,
            state=state,
            reason=reason,
            measurements={
                g.name: known[g.name] for g in self.experiment.objectives if g.name in known
            },
            artifact=f"artifacts/{number}" if state == "complete" else None,
            note=" ".join(self.facts.sentences()) or None,
            facts=self.facts,
            seconds=round(sum(self.clock.values()), 3),
        )

    def learn(self, **facts: Any) -> None:
        """Add facts, named like the fields of Facts."""
        self.facts = dataclasses.replace(self.facts, **facts)

    def _timed(self, stage: str, action: Callable[[], Any]) -> Any:
        """Return the result of `action`; its wall time is added to the stage's."""
        self.context.progress(stage, 0, 0, "")
        self.stage = stage
        start = time.perf_counter()
        try:
            return action()
        finally:
            self.clock[stage] = self.clock.get(stage, 0.0) + time.perf_counter() - start

    def _shape(self, builder: Builder) -> nn.Module:
        def on_edit(technique: str) -> None:
            self.editing = technique

        model, facts = builder.shape(self.plan, on_edit)
        self.learn(**facts)
        return model

    def _prepare(self, builder: Builder, model: nn.Module) -> None:
        """Let each technique adapt the plan to the shaped model."""
        device = workplace(model, self.experiment.target.device)
        decisions: dict[str, Mapping[str, Any]] = {}
        for setting in self.experiment.space.settings(self.point):
            tools = TrialTools(
                context=self.context,
                cache=builder.cache,
                plan=self.plan,
                task=placed(self.experiment.task, device),
                example=builder.example,
                device=device,
            )
            prepared: Prepared = setting.prepare(model, self.plan, tools)
            self.plan = prepared.plan
            if prepared.facts:
                decisions[self.experiment.space.name_of(setting)] = prepared.facts
        if decisions:
            self.learn(techniques=decisions)

    def _probe(self, builder: Builder, model: nn.Module, *, final: bool) -> None:
        """Measure what does not depend on training; raise Pruned if that rules out the point.

        `final` means that the model is not trained, so that the export is the artifact itself.
        """

        def measured() -> str:
            folder = self.context.artifact if final else self.context.scratch("probe")
            self._deploy(builder, model, folder)
            self._measure(folder, trained=False)
            if not final:
                shutil.rmtree(folder)
            return json.dumps({k: m.to_json() for k, m in self.measurements.items()})

        known = builder.cache.value("probe", self._probed(builder), measured, renew=final)
        if "probe" in builder.cache.saved:
            measurements = json.loads(known)
            self.measurements = {k: Measurement.from_json(v) for k, v in measurements.items()}
            self.learn(probe="from the cache of this run")
        self._judge(PROBE, self.measurements)

    def _probed(self, builder: Builder) -> Mapping[str, Any]:
        """Return what the untrained artifact follows from: points that differ in training share it.

        Candidates of one encoding, for example, are probed once for all temperatures.
        """
        runtime = self.experiment.runtime(self.plan.runtime)
        untrained = dataclasses.replace(self.plan, recovery=Recovery())
        return {"plan": untrained, "shape": builder.shape_key, "versions": versions(runtime)}

    def _train(self, builder: Builder, model: nn.Module) -> nn.Module:
        """Return the model after recovery training; raise Pruned if it falls behind at a rung."""

        def judge(rung: str, model: nn.Module) -> None:
            scores = estimate_scores(
                self.experiment, model, builder.validation, self.context.artifact
            )
            self._judge(rung, self.measurements | scores)

        model, facts = builder.train(model, self.plan, judge)
        self.learn(**facts)
        return model

    def _judge(self, rung: str, measurements: Mapping[str, Measurement]) -> None:
        reason = self.context.judge(Rung(name=rung, measurements=dict(measurements)))
        if reason:
            raise Pruned(reason)

    def _deploy(self, builder: Builder, model: nn.Module, folder: Path) -> None:
        """Export the candidate into `folder` with the plan's encoding."""
        export, facts = builder.encode(model, self.plan)
        self.learn(**facts)
        manifest = artifacts.write(
            folder,
            self.plan.runtime,
            self.experiment.runtime(self.plan.runtime),
            export,
            provenance(self.experiment, self.context.trial, self.point, self.plan, self.facts),
        )
        self.learn(**manifest_facts(manifest), **roofline_facts(self.context, manifest))

    def _measure(self, folder: Path, *, trained: bool) -> None:
        """Measure the objectives that depend on training, or the others, in fresh processes."""
        names = [g.name for g in self.experiment.objectives if g.objective.trained is trained]
        if names:
            # The other processes are left for `_measure_again`.
            measured = self._measured(folder, names, limit=PROBING)
            self._untrained = self._untrained if trained else measured

    def _measure_again(self) -> None:
        """Time the artifact in further processes, apart in time from the first by the scoring."""
        untrained = self._untrained
        if untrained and not untrained.complete:
            names = list(untrained.measurements)
            self._measured(self.context.artifact, names, known=untrained)

    def _ask(self) -> None:
        """Note what the runtime says that it executes; raise Infeasible if none of it is as asked.

        A profiler that fails leaves it unknown, with the details in the trial's log.
        """
        context = self.context
        try:
            execution = context.server.execution(
                self.experiment, context.artifact, data=context.cache / "data"
            )
        except Crashed:
            return
        self.learn(execution=execution)
        if execution is not None and execution.never:
            raise Infeasible(str(execution.shortfall()))

    def _measured(self, folder: Path, names: Sequence[str], **options: Any) -> ArtifactMeasurements:
        """Return the server's measurements of an artifact, and keep them."""
        measured = self.context.server.measure(
            self.experiment,
            folder,
            names,
            split="validation",
            data=self.context.cache / "data",
            strategy=self.facts.strategy,
            reference=self.context.reference,
            **options,
        )
        self.measurements |= measured.measurements
        if measured.processes:
            self.learn(processes=measured.processes, precision=measured.precision)
            self.learn(percentiles=self._percentiles(measured))
        if measured.conditions:
            self.learn(conditions=measured.conditions)
        if measured.placement and not self.facts.placement:
            self.learn(placement=measured.placement)
        return measured

    def _percentiles(self, measured: ArtifactMeasurements) -> Mapping[str, float] | None:
        """Return the percentiles of single runs, if the time of a batch is an objective."""
        for name, objective in timed(self.experiment.objectives).items():
            if isinstance(objective, Latency) and name in measured.times:
                reference = self.context.reference
                value = reference.values[name] if reference else None
                return objective.percentiles(
                    measured.times[name], measured.reference_times.get(name, ()), value
                )
        return None
