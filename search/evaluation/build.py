"""The steps that build a candidate: reference, shape, trained weights, artifact."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from objectives import Examples, Export, artifacts, cached, calibration
from objectives.artifacts import signature_of
from search.evaluation.cache import Cache
from search.evaluation.context import TrialContext
from search.evaluation.shape import left_whole, removed
from search.records import rungs
from spaces import Encoding, Plan, Point, Recovery, Stage, Technique
from spaces.devices import device_of
from spaces.modules import placed, rows, surgery, workplace
from spaces.quantization import encoded
from spaces.training import recovery

Facts = dict[str, Any]
"""New facts about a trial, by the names of the fields of records.Facts."""
Judge = Callable[[str, nn.Module], None]
"""Called with (rung, the model as it is) during training; raises what stops the trial."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Builder:
    """The user's model and data in one trial, with the cache of what is made of them."""

    context: TrialContext
    point: Point
    reference: nn.Module
    """The user's model, in evaluation mode; not to be edited."""
    validation: Examples
    cache: Cache

    @classmethod
    def of(cls, context: TrialContext, point: Point) -> "Builder":
        """Load the user's model and data."""
        experiment = context.experiment
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(experiment.seed)
            reference = experiment.task.model().eval()
        validation = cached(experiment.task, "validation", context.cache / "data")
        cache = Cache.of(context.cache, experiment, reference, validation)
        return cls(
            context=context, point=point, reference=reference, validation=validation, cache=cache
        )

    @property
    def example(self) -> Any:
        """Inputs of one batch of the target's size; raises ValueError where there is none."""
        size = self.context.experiment.target.batch_size
        if len(self.validation) < size:
            raise ValueError(
                f"the validation split has {len(self.validation)} samples, a batch of the target "
                f"has {size}"
            )
        return rows(self.validation.inputs, slice(0, size))

    @property
    def shape_key(self) -> Mapping[str, Any]:
        """The part of the point that decides the shape."""
        return self.context.experiment.space.shape(self.point)

    def shape(self, plan: Plan, begun: Callable[[str], None]) -> tuple[nn.Module, Facts]:
        """Return a copy of the reference, edited by the techniques of stage SHAPE.

        `begun` is called with the name of each technique before it edits.
        """
        space = self.context.experiment.space
        settings = [s for s in space.settings(self.point) if s.stage is Stage.SHAPE]
        if all(setting in (type(setting)(), self._base(setting)) for setting in settings):
            return self._copy(), {}
        place = self.cache.place("shape", shape=self.shape_key)
        with self.cache.alone(place):
            model = self.cache.load(place, self._fresh())
            if model is None:
                model, left = self._edited(settings, begun)
                self.cache.store(place, self.reference, model, {"left": left} if left else {})
            facts = self.cache.facts(place)
        return model.eval(), facts | self._what_went(model, plan)

    def _edited(
        self, settings: Sequence[Technique], begun: Callable[[str], None]
    ) -> tuple[nn.Module, list[str]]:
        """Return the edited model, and what techniques left whole."""
        experiment = self.context.experiment
        device = workplace(self.reference, experiment.target.device)
        model = self._copy().to(device)
        with device_of(device).exact(), left_whole() as left:
            for setting in settings:
                begun(experiment.space.name_of(setting))
                model = setting.apply(model, placed(experiment.task, device))
        return model.cpu(), left

    def _what_went(self, model: nn.Module, plan: Plan) -> Facts:
        """Return what an edited model lacks, and whether its zeros save time."""
        facts = removed(self.reference, model)
        if (zeros := surgery.zeros(model)) > surgery.zeros(self.reference):
            total = sum(p.numel() for p in model.parameters())
            facts["weights_zero"] = round(zeros / total, 4)
            experiment = self.context.experiment
            runtime = experiment.runtime(plan.runtime)
            facts["zeros"] = runtime.dense(plan.encoding, experiment.target)
        return facts

    def train(self, model: nn.Module, plan: Plan, judge: Judge) -> tuple[nn.Module, Facts]:
        """Return the model after recovery training against the reference; `judge` may stop it."""
        recipe = recovery.kept_to(model, self.context.experiment.task, plan.recovery)
        # On how many devices it is trained changes a model by rounding alone.
        alone = dataclasses.replace(recipe, devices=1, sharding="auto")
        place = self.cache.place("train", shape=self.shape_key, recovery=alone)
        with self.cache.alone(place):
            known = self.cache.load(place, self._fresh())
            if known is not None:
                facts = self.cache.facts(place) | {"train": "from the cache of this run"}
                return known.eval(), facts
            trained, facts = self._recovered(model, recipe, judge)
            self.cache.store(place, self.reference, trained, facts)
        return trained.eval(), facts

    def _recovered(
        self, model: nn.Module, recipe: Recovery, judge: Judge
    ) -> tuple[nn.Module, Facts]:
        """Train, and be judged at the rungs of the training."""
        losses: list[float] = []
        facts: Facts = {}
        # Several devices train in processes of their own, whose weights are not at hand here.
        heights = rungs(recipe.steps) if recipe.devices == 1 else {}

        def step(done: int, of: int, loss: float) -> None:
            losses.append(loss)
            self.context.progress("train", done, of, f"loss {loss:.3f}")
            if done in heights:
                judge(heights[done], model)

        def ended(outcome: recovery.Outcome) -> None:
            facts["recovery"] = dataclasses.asdict(outcome) | {"kept": outcome.kept}

        experiment = self.context.experiment
        model = model.to(experiment.target.device)
        model = recovery.recover(
            model,
            self.reference,
            experiment.task,
            recipe,
            seed=experiment.seed,
            progress=step,
            ended=ended,
        )
        if recipe.devices > 1:
            kind = next(model.parameters()).device.type
            held = recovery.sharing(model, self.reference, recipe, kind)
            facts["training"] = {"devices": recipe.devices} | dataclasses.asdict(held)
        if losses:
            facts["loss"] = [round(losses[0], 4), round(losses[-1], 4)]
        return model.cpu(), facts

    def encode(self, model: nn.Module, plan: Plan) -> tuple[Export, Facts]:
        """Return what the runtime is to export, its weights in codes where they have few bits."""
        experiment, encoding = self.context.experiment, plan.encoding
        target, facts, codes = experiment.target, {}, {}
        if encoding.packed:
            whole = encoded(model, experiment.task, encoding, workplace(model, target.device))
            model, codes, facts = whole.model, whole.codes, whole.facts()
        export = Export(
            model=model,
            reference=self.reference,
            example=self.example,
            signature=signature_of(model, self.example, target),
            encoding=encoding,
            calibration=self._calibration(encoding),
            target=target,
            folder=self.context.artifact,
            codes=codes,
        )
        return export, facts

    def _calibration(self, encoding: Encoding) -> Sequence[Any]:
        if encoding.activation_bits == 32:
            return ()
        experiment, folder = self.context.experiment, self.context.cache / "data"
        size, samples = experiment.target.batch_size, encoding.calibration_samples
        return calibration(experiment.task, size, samples, experiment.seed, folder)

    def _base(self, setting: Technique) -> Technique:
        slots = self.context.experiment.space.slots
        return next(slot.base for slot in slots if type(slot.base) is type(setting))

    def _fresh(self) -> nn.Module:
        return self.context.experiment.task.model().eval()

    def _copy(self) -> nn.Module:
        """Return the user's model anew with the reference's weights: not every module copies."""
        model = self._fresh()
        model.load_state_dict(self.reference.state_dict())
        return model


def identity_and_remark(manifest: Mapping[str, Any]) -> Facts:
    """Return what a manifest says of an artifact that its record should know."""
    facts: Facts = {"identity": artifacts.identity(manifest)}
    if remark := manifest["notes"].get("remark"):
        facts["remark"] = remark
    return facts
