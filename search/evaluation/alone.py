"""Times of single layers, for techniques that choose a plan by measured times."""

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
"""Times by layer and encoding, both as JSON text; empty for a layer with the same time in all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialTools:
    """Tools with which a technique prepares the plan of one trial: implements spaces.Tools."""

    context: TrialContext
    cache: Cache
    plan: Plan
    task: Task
    example: Any
    device: torch.device

    def time_alone(
        self, layers: Sequence[Alone], encodings: Sequence[Encoding]
    ) -> Mapping[Alone, Mapping[Encoding, Time]]:
        """Return the times of single layers with each encoding in the plan's runtime.

        Layers whose time no encoding can change are left out. Times come from the run's cache or
        are measured and stored there. Raises Untimed if layers cannot be timed.
        """
        if reason := untimed_reason(self.context, self.plan):
            raise Untimed(reason)
        try:
            rows = self._cached(layers, encodings)
        except Crashed as error:
            raise Untimed(f"layers could not be timed: {error}") from error
        return {
            layer: {e: Time(**rows[_text(layer)][_text(e)]) for e in encodings}
            for layer in layers
            if rows[_text(layer)]
        }

    def _cached(self, layers: Sequence[Alone], encodings: Sequence[Encoding]) -> Times:
        names = [_text(encoding) for encoding in encodings]
        path = self.cache.path(
            "layers", runtime=self.plan.runtime, encodings=names, machine=processor()
        )
        file = path.with_suffix(".json")
        with self.cache.locked(path):
            rows: Times = json.loads(file.read_text()) if file.is_file() else {}
            missing = [layer for layer in layers if _text(layer) not in rows]
            if missing:
                rows |= self._measured(missing, encodings)
                write_json(file, rows)
        return rows

    def _measured(self, layers: Sequence[Alone], encodings: Sequence[Encoding]) -> Times:
        """Return the times of layers; encodings that the runtime unpacks share one measurement.

        If the runtime unpacks all encodings of the first layer of a type, the other layers of this
        type are assumed to be unpacked too, and are not measured.
        """
        exports: dict[Alone, dict[Encoding, Path]] = {}
        unpacked_types: set[str] = set()
        with _removed_later(self.context.scratch("layers")) as folder:
            for number, layer in enumerate(layers):
                if layer.type in unpacked_types:
                    continue
                folders = {e: folder / f"{number}-{i}" for i, e in enumerate(encodings)}
                unpacked = self._exported(layer, folders)
                if unpacked is None:
                    continue
                if len(unpacked) == len(encodings):
                    unpacked_types.add(layer.type)
                    continue
                exports[layer] = {
                    e: folders[unpacked[0] if e in unpacked else e] for e in encodings
                }
            jobs = {path: layer for layer, paths in exports.items() for path in paths.values()}
            times = self.context.server.layers(self.context.experiment, jobs) if jobs else {}
        rows: Times = {_text(layer): {} for layer in layers}
        for layer, paths in exports.items():
            rows[_text(layer)] = {_text(e): times[path] for e, path in paths.items()}
        return rows

    def _exported(self, layer: Alone, folders: Mapping[Encoding, Path]) -> list[Encoding] | None:
        """Export a layer with each encoding; return the encodings that the runtime unpacks.

        Returns None if the runtime cannot export a model of this layer.
        """
        experiment = self.context.experiment
        model, inputs, unpacked = layer.model(), layer.inputs(), []
        # The inputs of a layer may have more rows than a batch of the target has samples.
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


def untimed_reason(context: TrialContext, plan: Plan) -> str | None:
    """Return the reason why layers cannot be timed alone, or None if they can."""
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
