"""What happens to one point: shape, probe, train, encode, deploy, measure.

Pure: it knows no study, no Ray and no MLflow. Everything it needs comes in, a Record goes out.
"""

import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from objectives import Measurement, artifacts
from objectives.artifacts import write_json
from search.evaluation.build import Stages
from search.evaluation.context import Bench, Pruned
from search.evaluation.estimate import estimated
from search.evaluation.notes import note
from search.experiment import kinds_of, refusal
from search.measuring import Found, worker
from search.study import PROBE, Record, Rung, fact
from spaces import Infeasible, Point, sentence
from spaces.training import recovery

__all__ = ["Bench", "Pruned", "evaluate"]


def evaluate(bench: Bench, point: Point) -> Record:
    """Build, export and measure the candidate at `point`; whatever stops it is in the record.

    Only reasons that belong to the point become records; faults of the user's code or of the
    machine are raised.
    """
    work = _Work(bench, point)
    try:
        state, reason = work.run()
    except Infeasible as error:
        traceback.print_exception(error)  # into the log: the reason is one sentence
        state, reason = "infeasible", sentence(str(error))
        work.facts |= fact(work.stage, work.stages.editing, error)
    except recovery.Diverged as error:
        state, reason = "failed", str(error)
    complete = state == "complete"
    if not complete:
        shutil.rmtree(work.artifact, ignore_errors=True)
    return Record(
        trial=bench.trial,
        point=dict(point),
        runtime=work.stages.plan.runtime,
        state=state,  # type: ignore[arg-type]
        reason=reason,
        measurements=work.ordered(),
        artifact=f"artifacts/{bench.trial}" if complete else None,
        note=note(work.facts),
        facts=work.facts | {"seconds": {k: round(v, 3) for k, v in work.clock.items()}},
        seconds=round(sum(work.clock.values()), 3),
    )


class _Work:
    """One trial under way: the stages in their order, and what they found out so far."""

    def __init__(self, bench: Bench, point: Point) -> None:
        self.bench, self.experiment = bench, bench.experiment
        self.stages = Stages(bench, point)
        self.artifact = self.stages.artifact
        self.facts = self.stages.facts  # one dict: what is found out is told in one place
        self.measurements: dict[str, Measurement] = {}
        self.clock: dict[str, float] = {}
        self.untrained: Found | None = None
        self.stage = ""

    def run(self) -> tuple[str, str | None]:
        """Return the state in which the trial ended, and why when it is not complete."""
        start = time.perf_counter()
        stages = self.stages
        reference = stages.begin()
        self.clock["reference"] = time.perf_counter() - start
        if reason := refusal(self.experiment, stages.plan, kinds_of(reference)):
            return "infeasible", reason
        model = self.timed("shape", lambda: stages.shape(reference))
        if stages.plan.encoding.mean_bits < 32:
            self.timed("allocate", lambda: stages.allocate(model))
        training = stages.plan.recovery.steps > 0
        try:
            self.timed("probe", lambda: self.probe(reference, model, final=not training))
            if training:
                model = self.timed("train", lambda: stages.train(reference, model, self.judge))
                self.timed("deploy", lambda: stages.deploy(reference, model, self.artifact))
                self.timed("measure", lambda: self.measure(self.artifact, trained=False))
        except Pruned as error:
            return "pruned", str(error)
        self.timed("measure", lambda: self.measure(self.artifact, trained=True))
        self.timed("measure", lambda: self.again(self.artifact))
        artifacts.annotate(
            self.artifact,
            measurements={k: m.to_json() for k, m in self.measurements.items()},
            facts=self.facts,
        )
        return "complete", None

    def timed(self, stage: str, action: Callable[[], Any]) -> Any:
        """Return what `action` returns, its wall time added to the stage's."""
        self.bench.progress(stage, 0, 0, "")
        self.stage = stage
        start = time.perf_counter()
        try:
            return action()
        finally:
            self.clock[stage] = self.clock.get(stage, 0.0) + time.perf_counter() - start

    def ordered(self) -> dict[str, Measurement]:
        """Return the measurements in the order in which the experiment names its objectives."""
        found = self.measurements
        return {g.name: found[g.name] for g in self.experiment.goals if g.name in found}

    def probe(self, reference: nn.Module, model: nn.Module, *, final: bool) -> None:
        """Measure what does not depend on training; raise Pruned when that rules the point out.

        `final` says that the model will not be trained: the export is then the artifact itself.
        """
        place = self.stages.cache.place("probe", plan=self.stages.plan, shape=self.stages.shaped())
        file = place.with_suffix(".json")
        if not final and file.is_file():
            found = json.loads(file.read_text())
            self.measurements = {k: Measurement(**v) for k, v in found.items()}
            self.facts["probe"] = "from the cache of this run"
        else:
            folder = (
                self.artifact if final else self.artifact.with_name(f"{self.bench.trial}-probe")
            )
            self.stages.deploy(reference, model, folder)
            self.measure(folder, trained=False)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {k: m.to_json() for k, m in self.measurements.items()})
            if not final:
                shutil.rmtree(folder)
        self._judged(PROBE, self.measurements)

    def measure(self, folder: Path, *, trained: bool) -> None:
        """Measure the artifact in `folder` in fresh processes: what needs training, or the rest."""
        names = [g.name for g in self.experiment.goals if g.objective.trained is trained]
        if names:
            # The last process comes after all others have been scored: see `again`.
            found = self._found(folder, names, processes=worker.PROCESSES - 1)
            self.untrained = self.untrained if trained else found

    def again(self, folder: Path) -> None:
        """Time the artifact once more: scoring and its processes lie between then and now."""
        known = self.untrained
        if known and not known.complete:
            names = list(known.measurements)
            self._found(folder, names, processes=worker.PROCESSES, known=known)

    def _found(self, folder: Path, names: Sequence[str], **how: Any) -> Found:
        """Return what the lane measures, and keep it."""
        found = self.bench.lane.measure(
            self.experiment,
            folder,
            names,
            split="validation",
            data=self.bench.cache / "data",
            strategy=self.facts.get("placement", {}).get("strategy"),
            **how,
        )
        self.measurements |= found.measurements
        self.facts |= found.facts()
        if found.conditions:
            self.facts["conditions"] = found.conditions
        if found.placement:
            self.facts.setdefault("placement", found.placement)
        return found

    def judge(self, rung: str, model: nn.Module) -> None:
        """Hold a model in training against other trials; raise Pruned when it is to stop."""
        found = estimated(self.experiment, model, self.stages.validation(), self.artifact)
        self._judged(rung, self.measurements | found)

    def _judged(self, rung: str, found: Mapping[str, Measurement]) -> None:
        if reason := self.bench.judge(Rung(name=rung, found=dict(found))):
            raise Pruned(reason)
