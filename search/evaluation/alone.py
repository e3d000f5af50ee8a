"""Layers timed alone, for techniques that settle a plan by measured times."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from objectives import Export, artifacts
from objectives.artifacts import signature_of
from objectives.host import processor, write_json
from search.evaluation.cache import Cache
from search.evaluation.context import TrialContext
from search.measuring import Crashed
from spaces import Alone, Encoding, Infeasible, Plan, Task, Time, Untimed, encode
from spaces.devices import device_of

Times = dict[str, dict[str, Any]]
"""Times by encoding by layer, both as text; nothing for a layer on which encodings have no say."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workbench:
    """What a technique may use to settle the plan of a trial; it has the members of Tools."""

    context: TrialContext
    cache: Cache
    plan: Plan
    task: Task
    example: Any
    device: torch.device

    def time_alone(
        self, layers: Sequence[Alone], encodings: Sequence[Encoding]
    ) -> Mapping[Alone, Mapping[Encoding, Time]]:
        """Return the times of layers alone with each encoding, as the plan's runtime runs them.

        A layer is left out where no encoding can change its time. What the run's cache lacks is
        measured and kept there. Raises Untimed.
        """
        if reason := untimed(self.context, self.plan):
            raise Untimed(reason)
        try:
            rows = self._known(layers, encodings)
        except Crashed as error:
            raise Untimed(f"layers could not be timed: {error}") from error
        return {
            layer: {e: Time(**rows[_text(layer)][_text(e)]) for e in encodings}
            for layer in layers
            if rows[_text(layer)]
        }

    def _known(self, layers: Sequence[Alone], encodings: Sequence[Encoding]) -> Times:
        names = [_text(encoding) for encoding in encodings]
        place = self.cache.place(
            "layers", runtime=self.plan.runtime, encodings=names, machine=processor()
        )
        file = place.with_suffix(".json")
        with self.cache.alone(place):
            rows: Times = json.loads(file.read_text()) if file.is_file() else {}
            missing = [layer for layer in layers if _text(layer) not in rows]
            if missing:
                rows |= self._measured(missing, encodings)
                write_json(file, rows)
        return rows

    def _measured(self, layers: Sequence[Alone], encodings: Sequence[Encoding]) -> Times:
        """Return the times of layers; of encodings that are unpacked alike one stands for all.

        Where the runtime unpacks all encodings of the first layer of a type, it is taken to do so
        for the others.
        """
        exports: dict[Alone, dict[Encoding, Path]] = {}
        plain: set[str] = set()  # types whose weights are unpacked with any encoding
        with _removed_later(self.context.scratch("layers")) as folder:
            for number, layer in enumerate(layers):
                if layer.type in plain:
                    continue
                folders = {e: folder / f"{number}-{i}" for i, e in enumerate(encodings)}
                unpacked = self._exported(layer, folders)
                if unpacked is None:
                    continue
                if len(unpacked) == len(encodings):
                    plain.add(layer.type)
                    continue
                exports[layer] = {
                    e: folders[unpacked[0] if e in unpacked else e] for e in encodings
                }
            tasks = {path: layer for layer, paths in exports.items() for path in paths.values()}
            times = self.context.lane.layers(self.context.experiment, tasks) if tasks else {}
        rows: Times = {_text(layer): {} for layer in layers}
        for layer, paths in exports.items():
            rows[_text(layer)] = {_text(e): times[path] for e, path in paths.items()}
        return rows

    def _exported(self, layer: Alone, folders: Mapping[Encoding, Path]) -> list[Encoding] | None:
        """Export a layer with each encoding; return those that the runtime unpacks.

        None where the runtime cannot export a model of this layer alone.
        """
        experiment = self.context.experiment
        model, inputs, unpacked = layer.model(), layer.inputs(), []
        # a layer's inputs may have more rows than the target has samples
        target = dataclasses.replace(experiment.target, batch_size=len(inputs))
        for encoding, folder in folders.items():
            export = Export(
                model=model,
                reference=model,
                example=inputs,
                signature=signature_of(model, inputs, target),
                encoding=encoding,
                calibration=[inputs] if encoding.activation_bits < 32 else (),
                target=target,
                folder=folder,
            )
            runtime = experiment.runtime(self.plan.runtime)
            try:
                manifest = artifacts.write(folder, self.plan.runtime, runtime, export, {})
            except Infeasible:
                return None
            if manifest["notes"].get("unpacked_layers"):
                unpacked.append(encoding)
        return unpacked


def untimed(context: TrialContext, plan: Plan) -> str | None:
    """Return why layers are not timed alone, None if they are."""
    device = context.experiment.target.device
    if device_of(device).accelerator:
        return f"layers are timed alone on CPUs only, the target is {device}"
    if plan.placement.count > 1:
        return "layers are not timed alone where several devices share them"
    return None


def _text(value: Alone | Encoding) -> str:
    return json.dumps(encode(value), sort_keys=True)


@contextlib.contextmanager
def _removed_later(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
