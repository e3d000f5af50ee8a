"""The stages that build a candidate: shape, allocate, train, deploy."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from objectives import Examples, Export, artifacts, cached, calibration
from objectives.artifacts import signature_of
from search.evaluation import widths
from search.evaluation.cache import Cache
from search.evaluation.context import Bench
from search.evaluation.facts import left_whole, removed
from search.evaluation.notes import provenance
from search.study import rungs
from spaces import Encoding, Point, Recovery, Stage
from spaces.devices import device_of
from spaces.modules import placed, rows, surgery, workplace
from spaces.quantization import encoded
from spaces.training import recovery

Judged = Callable[[str, nn.Module], None]
"""Told (rung, the model as it is) during training; raises what stops the trial."""


class Stages:
    """The building of one candidate, and what was found out on the way."""

    def __init__(self, bench: Bench, point: Point) -> None:
        self.bench, self.point = bench, point
        self.experiment = bench.experiment
        self.plan = self.experiment.space.plan(point)
        self.artifact = bench.folder / "artifacts" / str(bench.trial)
        self.facts: dict[str, Any] = {}
        self.editing: str | None = None
        """The technique whose edit of the shape was begun last."""

    def begin(self) -> nn.Module:
        """Return the user's model, and open the cache of what is made from it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.experiment.seed)
            reference = self.experiment.task.model().eval()
        self.cache = Cache.of(
            self.bench.cache, self.experiment, reference, self.validation(), self.bench.trial
        )
        return reference

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
                with device_of(device).exact(), left_whole() as left:
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
        setup = widths.Setup(
            experiment=self.experiment,
            lane=self.bench.lane,
            cache=self.cache,
            scratch=self.artifact.with_name(f"{self.bench.trial}-layers"),
        )
        found = widths.allot(setup, self.plan, model, self._example())
        self.plan, self.facts["allocation"] = found

    def train(self, reference: nn.Module, model: nn.Module, judged: Judged) -> nn.Module:
        """Return the model after recovery training against the reference; `judged` may stop it."""
        recipe = recovery.kept_to(model, self.experiment.task, self.plan.recovery)
        # On how many devices it is trained changes a model by rounding alone.
        alone = dataclasses.replace(recipe, devices=1, sharding="auto")
        place = self.cache.place("train", shape=self.shaped(), recovery=alone)
        with self.cache.alone(place):
            known = self.cache.load(place, self._fresh())
            if known is not None:
                self.facts |= self.cache.facts(place) | {"train": "from the cache of this run"}
                return known.eval()
            trained, facts = self._recovered(reference, model, recipe, judged)
            self.facts |= facts
            self.cache.store(place, reference, trained, facts)
        return trained.eval()

    def _recovered(
        self, reference: nn.Module, model: nn.Module, recipe: Recovery, judged: Judged
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
                judged(heights[done], model)

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
        manifest = artifacts.write(
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
            provenance(self.experiment, self.bench.trial, self.point, self.plan, self.facts),
        )
        self.facts["identity"] = artifacts.identity(manifest)
        if remark := manifest["notes"].get("remark"):
            self.facts["remark"] = remark

    # What the stages share

    def validation(self) -> Examples:
        """Return the validation split, as every process reads it."""
        return cached(self.experiment.task, "validation", self.bench.cache / "data")

    def _example(self) -> Any:
        """Return the inputs of one batch of the target's size."""
        examples, size = self.validation(), self.experiment.target.batch_size
        if len(examples) < size:
            raise ValueError(
                f"the validation split has {len(examples)} samples, a batch of the target has "
                f"{size}"
            )
        return rows(examples.inputs, slice(0, size))

    def shaped(self) -> dict[str, Any]:
        """Return the part of the point that decides the shape."""
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
