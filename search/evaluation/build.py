"""Build a candidate step by step: reference, shape, trained weights, encoded export."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from objectives import Examples, Export, artifacts, cached, calibration
from objectives.artifacts import described
from search.evaluation.cache import Cache, CachedMemory
from search.evaluation.context import TrialContext
from search.evaluation.shape import collect_left, removal_facts
from search.records import rungs
from spaces import Encoding, Plan, Point, Recovery, Stage, Technique
from spaces.devices import device_of
from spaces.modules import placed, rows, surgery, workplace
from spaces.quantization import encoded
from spaces.training import recovery

Facts = dict[str, Any]
"""New facts about a trial, named like the fields of records.Facts."""
Judge = Callable[[str, nn.Module], None]
"""Called with (rung, current model) during training; raises an exception to stop the trial."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Builder:
    """The steps that build a candidate from the user's model and data, with cached results."""

    context: TrialContext
    point: Point
    reference: nn.Module
    """The user's model in evaluation mode; must not be edited."""
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
        """Inputs of one batch of the target's size; raises ValueError if the split is smaller."""
        size = self.context.experiment.target.batch_size
        if len(self.validation) < size:
            raise ValueError(
                f"the validation split has {len(self.validation)} samples, a batch of the target "
                f"has {size}"
            )
        return rows(self.validation.inputs, slice(0, size))

    @property
    def shape_key(self) -> Mapping[str, Any]:
        """Part of the point that determines the shape."""
        return self.context.experiment.space.shape(self.point)

    def shape(self, plan: Plan, on_edit: Callable[[str], None]) -> tuple[nn.Module, Facts]:
        """Return an edited copy of the reference, and facts about it.

        The techniques of stage SHAPE edit it. `on_edit` is called with the name of each technique
        before it edits the model.
        """
        space = self.context.experiment.space
        settings = [s for s in space.settings(self.point) if s.stage is Stage.SHAPE]
        if all(setting in (type(setting)(), self._base(setting)) for setting in settings):
            return self._copy(), {}
        model, facts, _ = self.cache.model(
            "shape",
            {"shape": self.shape_key},
            self.reference,
            self._fresh,
            lambda: self._edited(settings, on_edit),
        )
        return model.eval(), facts | self._shape_facts(model, plan)

    def _edited(
        self, settings: Sequence[Technique], on_edit: Callable[[str], None]
    ) -> tuple[nn.Module, Facts]:
        """Return the edited model, and messages about parts that techniques could not change."""
        experiment = self.context.experiment
        device = workplace(self.reference, experiment.target.device)
        model = self._copy().to(device)
        memory = CachedMemory(cache=self.cache, device=device)
        with device_of(device).exact(), collect_left() as left:
            for setting in settings:
                on_edit(experiment.space.name_of(setting))
                model = setting.edit(model, placed(experiment.task, device), memory)
        return model.cpu(), {"left": left} if left else {}

    def _shape_facts(self, model: nn.Module, plan: Plan) -> Facts:
        """Return facts about what an edited model lacks, and if its zeros save time."""
        facts = removal_facts(self.reference, model)
        if (zeros := surgery.zeros(model)) > surgery.zeros(self.reference):
            total = sum(p.numel() for p in model.parameters())
            facts["weights_zero"] = round(zeros / total, 4)
            experiment = self.context.experiment
            runtime = experiment.runtime(plan.runtime)
            facts["zeros"] = runtime.dense(plan.encoding, experiment.target)
        return facts

    def train(self, model: nn.Module, plan: Plan, judge: Judge) -> tuple[nn.Module, Facts]:
        """Return the model after recovery training, and facts about it; `judge` may stop the trial.

        The teacher is the reference.
        """
        recipe = recovery.kept_to(model, self.context.experiment.task, plan.recovery)
        # The number of devices is not in the key: it changes the weights by rounding errors only.
        on_one_device = dataclasses.replace(recipe, devices=1, sharding="auto")
        trained, facts, known = self.cache.model(
            "train",
            {"shape": self.shape_key, "recovery": on_one_device},
            self.reference,
            self._fresh,
            lambda: self._recovered(model, recipe, judge),
        )
        return trained.eval(), facts | ({"train": "from the cache of this run"} if known else {})

    def _recovered(
        self, model: nn.Module, recipe: Recovery, judge: Judge
    ) -> tuple[nn.Module, Facts]:
        """Train the model, calling `judge` at the rungs."""
        losses: list[float] = []
        facts: Facts = {}
        # Several devices train in other processes, whose weights are not accessible here.
        rung_names = rungs(recipe.steps) if recipe.devices == 1 else {}

        def step(done: int, of: int, loss: float) -> None:
            losses.append(loss)
            self.context.progress("train", done, of, f"loss {loss:.3f}")
            if done in rung_names:
                judge(rung_names[done], model)

        def on_end(outcome: recovery.Outcome) -> None:
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
            ended=on_end,
        )
        if recipe.devices > 1:
            kind = next(model.parameters()).device.type
            sharing = recovery.sharing(model, self.reference, recipe, kind)
            facts["training"] = {"devices": recipe.devices} | dataclasses.asdict(sharing)
        if losses:
            facts["loss"] = [round(losses[0], 4), round(losses[-1], 4)]
        return model.cpu(), facts

    def encode(self, model: nn.Module, plan: Plan) -> tuple[Export, Facts]:
        """Return the export request for a model, and facts; weights of few bits become codes."""
        experiment, encoding = self.context.experiment, plan.encoding
        target, facts, codes = experiment.target, {}, {}
        if encoding.packed:
            result = encoded(model, experiment.task, encoding, workplace(model, target.device))
            model, codes, facts = result.model, result.codes, result.facts()
        signature, operations = described(model, self.example, target)
        export = Export(
            model=model,
            reference=self.reference,
            example=self.example,
            signature=signature,
            encoding=encoding,
            calibration=self._calibration(encoding),
            target=target,
            folder=self.context.artifact,
            codes=codes,
            operations=operations,
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
        """Return a new model with the reference's weights: not every module can be deep-copied."""
        model = self._fresh()
        model.load_state_dict(self.reference.state_dict())
        return model


def manifest_facts(manifest: Mapping[str, Any]) -> Facts:
    """Return the facts in a manifest: identity and bytes of the files, and the runtime's remark."""
    facts: Facts = {"identity": artifacts.identity(manifest), "size": artifacts.size(manifest)}
    if remark := manifest["notes"].get("remark"):
        facts["remark"] = remark
    return facts
