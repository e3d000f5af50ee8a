"""What happens to one point: shape, probe, train, encode, deploy, measure.

Pure: it knows no study, no Ray and no MLflow. Everything it needs comes in, a Record goes out.
"""

import dataclasses
import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from objectives import Export, Measurement
from objectives._artifact import annotate, manifest_of, signature_of, write, write_json
from objectives._data import Examples, cached, calibration
from search import allotting, measuring
from search.cache import Cache
from search.estimate import estimated
from search.experiment import Experiment
from search.feasibility import kinds_of, refusal
from search.impossible import fact
from search.lane import Found, Lane
from search.record import Record
from search.rungs import PROBE, Rung, rungs
from search.shaping import left_whole, removed, sentences
from spaces import Encoding, Infeasible, Recovery, Stage
from spaces import _recovery as recovery
from spaces import _surgery as surgery
from spaces._inputs import rows
from spaces._placing import exact, placed, workplace
from spaces._reasons import sentence
from spaces._space import Point
from spaces.quantize._encode import encoded

Progress = Callable[[str, int, int, str], None]
"""Told (stage, done, of, detail) while a trial runs; `of` is 0 where there is nothing to count."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """Where a trial works and what it may compare itself with."""

    experiment: Experiment
    folder: Path
    """The run folder."""
    trial: int
    lane: Lane
    progress: Progress
    judge: Callable[[Rung], str | None] = lambda rung: None
    """Says at a rung why the trial is to stop, None if it goes on."""

    @property
    def cache(self) -> Path:
        """Folder of the stages' results, by content."""
        return self.folder / "cache"


class Pruned(Exception):
    """A trial that was stopped because it cannot reach the front; the message says why."""


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
        work.facts |= fact(work.stage, work.editing, error)
    except recovery.Diverged as error:
        state, reason = "failed", str(error)
    complete = state == "complete"
    if not complete:
        shutil.rmtree(work.artifact, ignore_errors=True)
    return Record(
        trial=bench.trial,
        point=dict(point),
        runtime=work.plan.runtime,
        state=state,  # type: ignore[arg-type]
        reason=reason,
        measurements=work.ordered(),
        artifact=f"artifacts/{bench.trial}" if complete else None,
        note=work.note(),
        facts=work.facts | {"seconds": {k: round(v, 3) for k, v in work.clock.items()}},
        seconds=round(sum(work.clock.values()), 3),
    )


class _Work:
    """One trial under way: the stages in their order, and what they found out so far."""

    def __init__(self, bench: Bench, point: Point) -> None:
        self.bench, self.point = bench, point
        self.experiment = bench.experiment
        self.plan = self.experiment.space.plan(point)
        self.artifact = bench.folder / "artifacts" / str(bench.trial)
        self.measurements: dict[str, Measurement] = {}
        self.facts: dict[str, Any] = {}
        self.clock: dict[str, float] = {}
        self.untrained: Found | None = None
        self.stage = ""
        self.editing: str | None = None
        """The technique whose edit of the shape was begun last."""

    def run(self) -> tuple[str, str | None]:
        """Return the state in which the trial ended, and why when it is not complete."""
        start = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.experiment.seed)
            reference = self.experiment.task.model().eval()
        self.cache = Cache.of(
            self.bench.cache, self.experiment, reference, self._validation(), self.bench.trial
        )
        self.clock["reference"] = time.perf_counter() - start
        if reason := refusal(self.experiment, self.plan, kinds_of(reference)):
            return "infeasible", reason
        model = self.timed("shape", lambda: self.shape(reference))
        if self.plan.encoding.mean_bits < 32:
            self.timed("allocate", lambda: self.allocate(model))
        training = self.plan.recovery.steps > 0
        try:
            self.timed("probe", lambda: self.probe(reference, model, final=not training))
            if training:
                model = self.timed("train", lambda: self.train(reference, model))
                self.timed("deploy", lambda: self.deploy(reference, model, self.artifact))
                self.timed("measure", lambda: self.measure(self.artifact, trained=False))
        except Pruned as error:
            return "pruned", str(error)
        self.timed("measure", lambda: self.measure(self.artifact, trained=True))
        self.timed("measure", lambda: self.again(self.artifact))
        annotate(
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

    def note(self) -> str | None:
        """Return what whoever reads of this trial should know, in whole sentences."""
        found = sentences(self.facts)
        found += [self.facts[k] for k in ("zeros", "remark") if k in self.facts]
        if (how := self.facts.get("conditions", {}).get("execution", "")).startswith("no "):
            found.append(f"Its kernels are launched one by one: {how}.")
        trained = self.facts.get("recovery", {"kept": True})
        if not trained["kept"]:
            found.append(
                f"Recovery training raised the loss from {trained['before']:.3g} to "
                f"{trained['after']:.3g} and was taken back."
            )
        return " ".join(found) or None

    # Stages

    def shape(self, reference: nn.Module) -> nn.Module:
        """Return a copy of the reference, edited by the techniques of stage SHAPE."""
        space, task = self.experiment.space, self.experiment.task
        settings = [s for s in space.settings(self.point) if s.stage is Stage.SHAPE]
        if all(
            setting == type(setting)() or setting == self._base(setting) for setting in settings
        ):
            return self._copy(reference)
        place = self.cache.place("shape", shape=space.shape(self.point))
        with self.cache.alone(place):
            model = self.cache.load(place, self._fresh())
            if model is None:
                device = workplace(reference, self.experiment.target.device)
                model = self._copy(reference).to(device)
                with exact(device), left_whole() as left:
                    for setting in settings:
                        self.editing = space.name_of(setting)
                        model = setting.apply(model, placed(task, device))
                model = model.cpu()
                self.cache.store(place, reference, model, {"left": left} if left else {})
            self.facts |= self.cache.facts(place)
        self.facts |= removed(reference, model)
        if (zeros := surgery.zeros(model)) > surgery.zeros(reference):
            self.facts["weights_zero"] = round(
                zeros / sum(p.numel() for p in model.parameters()), 4
            )
            runtime = self.experiment.runtime(self.plan.runtime)
            if reason := runtime.dense(self.plan.encoding, self.experiment.target):
                self.facts["zeros"] = reason
        return model.eval()

    def allocate(self, model: nn.Module) -> None:
        """Settle the bits of each weight, which training and encoding keep to."""
        setup = allotting.Setup(
            experiment=self.experiment,
            lane=self.bench.lane,
            cache=self.cache,
            scratch=self.artifact.with_name(f"{self.bench.trial}-layers"),
        )
        found = allotting.allot(setup, self.plan, model, self._example())
        self.plan, self.facts["allocation"] = found

    def probe(self, reference: nn.Module, model: nn.Module, *, final: bool) -> None:
        """Measure what does not depend on training; raise Pruned when that rules the point out.

        `final` says that the model will not be trained: the export is then the artifact itself.
        """
        place = self.cache.place("probe", plan=self.plan, shape=self._shape())
        file = place.with_suffix(".json")
        if not final and file.is_file():
            found = json.loads(file.read_text())
            self.measurements = {k: Measurement(**v) for k, v in found.items()}
            self.facts["probe"] = "from the cache of this run"
        else:
            folder = (
                self.artifact if final else self.artifact.with_name(f"{self.bench.trial}-probe")
            )
            self.deploy(reference, model, folder)
            self.measure(folder, trained=False)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {k: m.to_json() for k, m in self.measurements.items()})
            if not final:
                shutil.rmtree(folder)
        self._judged(PROBE, self.measurements)

    def train(self, reference: nn.Module, model: nn.Module) -> nn.Module:
        """Return the model after recovery training against the reference."""
        recipe = recovery.kept_to(model, self.experiment.task, self.plan.recovery)
        # On how many devices it is trained changes a model by rounding alone.
        alone = dataclasses.replace(recipe, devices=1, sharding="auto")
        place = self.cache.place("train", shape=self._shape(), recovery=alone)
        with self.cache.alone(place):
            known = self.cache.load(place, self._fresh())
            if known is not None:
                self.facts |= self.cache.facts(place) | {"train": "from the cache of this run"}
                return known.eval()
            trained, facts = self._recovered(reference, model, recipe)
            self.facts |= facts
            self.cache.store(place, reference, trained, facts)
        return trained.eval()

    def _recovered(
        self, reference: nn.Module, model: nn.Module, recipe: Recovery
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Train, and be held against other trials at the rungs of the training."""
        losses: list[float] = []
        facts: dict[str, Any] = {}
        # Several devices train in processes of their own, whose weights are not at hand here.
        heights = rungs(recipe.steps) if recipe.devices == 1 else {}

        def step(done: int, of: int, loss: float) -> None:
            losses.append(loss)
            self.bench.progress("train", done, of, f"loss {loss:.3f}")
            if done in heights:
                self._judged(heights[done], self.measurements | self._estimate(model))

        def ended(outcome: recovery.Outcome) -> None:
            facts["recovery"] = dataclasses.asdict(outcome) | {"kept": outcome.kept}

        model = model.to(self.experiment.target.device)
        model = recovery.recover(
            model,
            reference,
            self.experiment.task,
            recipe,
            seed=self.experiment.seed,
            progress=step,
            ended=ended,
        )
        if recipe.devices > 1:
            kind = next(model.parameters()).device.type
            held = recovery.sharing(model, reference, recipe, kind)
            facts["training"] = {"devices": recipe.devices} | dataclasses.asdict(held)
        if losses:
            facts["loss"] = [round(losses[0], 4), round(losses[-1], 4)]
        return model.cpu(), facts

    def deploy(self, reference: nn.Module, model: nn.Module, folder: Path) -> None:
        """Export the candidate into `folder`, encoded as the plan asks."""
        target, encoding = self.experiment.target, self.plan.encoding
        example = self._example()
        codes = {}
        if encoding.packed:
            device = workplace(model, target.device)
            whole = encoded(model, self.experiment.task, encoding, device)
            model, codes = whole.model, whole.codes
            self.facts |= whole.facts()
        write(
            folder,
            self.plan.runtime,
            self.experiment.runtime(self.plan.runtime),
            Export(
                model=model,
                reference=reference,
                example=example,
                signature=signature_of(model, example, target),
                encoding=encoding,
                calibration=self._calibration(encoding),
                target=target,
                folder=folder,
                codes=codes,
            ),
            self._provenance(),
        )
        if remark := manifest_of(folder)["notes"].get("remark"):
            self.facts["remark"] = remark

    def measure(self, folder: Path, *, trained: bool) -> None:
        """Measure the artifact in `folder` in fresh processes: what needs training, or the rest."""
        names = [g.name for g in self.experiment.goals if g.objective.trained is trained]
        if names:
            # The last process comes after all others have been scored: see `again`.
            found = self._found(folder, names, processes=measuring.PROCESSES - 1)
            self.untrained = self.untrained if trained else found

    def again(self, folder: Path) -> None:
        """Time the artifact once more: scoring and its processes lie between then and now."""
        known = self.untrained
        if known and not known.complete:
            names = list(known.measurements)
            self._found(folder, names, processes=measuring.PROCESSES, known=known)

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

    def _estimate(self, model: nn.Module) -> dict[str, Measurement]:
        return estimated(self.experiment, model, self._validation(), self.artifact)

    def _judged(self, rung: str, found: Mapping[str, Measurement]) -> None:
        if reason := self.bench.judge(Rung(name=rung, found=dict(found))):
            raise Pruned(reason)

    # What the stages share

    def _validation(self) -> Examples:
        return cached(self.experiment.task, "validation", self.bench.cache / "data")

    def _example(self) -> Any:
        """Return the inputs of one batch of the target's size."""
        examples, size = self._validation(), self.experiment.target.batch_size
        if len(examples) < size:
            raise ValueError(
                f"the validation split has {len(examples)} samples, a batch of the target has "
                f"{size}"
            )
        return rows(examples.inputs, slice(0, size))

    def _shape(self) -> dict[str, Any]:
        return self.experiment.space.shape(self.point)

    def _base(self, setting: Any) -> Any:
        slots = self.experiment.space.slots
        return next(slot.base for slot in slots if type(slot.base) is type(setting))

    def _fresh(self) -> nn.Module:
        return self.experiment.task.model().eval()

    def _copy(self, reference: nn.Module) -> nn.Module:
        """Return the user's model anew with the reference's weights: not every module copies."""
        model = self._fresh()
        model.load_state_dict(reference.state_dict())
        return model

    def _calibration(self, encoding: Encoding) -> Sequence[Any]:
        if encoding.activation_bits == 32:
            return ()
        task, size = self.experiment.task, self.experiment.target.batch_size
        folder = self.bench.cache / "data"
        return calibration(task, size, encoding.calibration_samples, self.experiment.seed, folder)

    def _provenance(self) -> dict[str, Any]:
        described = self.experiment.task.describe()
        return {
            "trial": self.bench.trial,
            "point": self.point,
            "placement": dataclasses.asdict(self.plan.placement),
            "task": {
                "name": described["name"],
                "settings": dataclasses.asdict(self.experiment.task),  # type: ignore[call-overload]
            },
            "objectives": {g.name: dataclasses.asdict(g.objective) for g in self.experiment.goals},
            "preprocessing": described.get("batches", "")
            or "inputs exactly as the task's batches() yields them",
            "facts": self.facts,
        }
