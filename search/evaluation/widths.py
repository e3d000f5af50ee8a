"""Bits for the layers of a candidate, by what rounding costs the loss and by measured times."""

import contextlib
import copy
import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from objectives import Export, artifacts
from objectives.artifacts import signature_of, write_json
from search.evaluation.cache import Cache
from search.experiment import Experiment
from search.measuring import Alone, Crashed, Lane
from search.run_folder import processor
from spaces import Encoding, Infeasible, Plan
from spaces.devices import device_of, on_host
from spaces.modules import placed, workplace
from spaces.quantization import (
    WEIGHT,
    WIDTHS,
    Allocation,
    Kind,
    Time,
    Times,
    allocation,
    allotted,
    kinds,
)

MOST = 12
"""Kinds of layers that are timed, those with most work; the others have no say."""

Table = dict[Kind, dict[int, Time]]
"""By kind and bits; nothing for a kind whose time cannot depend on bits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """Where layers are timed."""

    experiment: Experiment
    lane: Lane
    cache: Cache
    scratch: Path
    """A folder that may be made, and is removed."""


def allot(setup: Setup, plan: Plan, model: nn.Module, example: Any) -> tuple[Plan, dict[str, Any]]:
    """Return `plan` with the bits of each weight of `model`, and what they follow from.

    `example` is one batch of the target's size. Training and encoding then keep to these bits.
    """
    times, reason = _times(setup, plan, model, example)
    counted = times.of(WIDTHS) if times and not reason else {}
    device = workplace(model, setup.experiment.target.device)
    there = model if on_host(device) else copy.deepcopy(model).to(device)
    with device_of(device).exact():
        task = placed(setup.experiment.task, device)
        found = allocation(there, task, plan.encoding, counted)
    return allotted(plan, found.bits), _facts(found, times, reason)


def _facts(found: Allocation, times: Times | None, reason: str | None) -> dict[str, Any]:
    """Return what bits follow from, for the record."""
    facts: dict[str, Any] = {"by": "loss" if reason else "loss and latency"}
    if reason:
        facts["reason"] = reason
    else:
        facts["predicted_ms"] = round(found.predicted, 4)
        facts["one_width"] = {"bits": found.width, "predicted_ms": round(found.single, 4)}
    if times and times.table:
        uses = Counter(kind for own in times.uses.values() for kind in own)
        facts["layers"] = [
            {
                "kind": str(kind),
                "count": uses[kind],
                "ms": {str(b): [_short(v) for v in dataclasses.astuple(t)] for b, t in row.items()},
            }
            for kind, row in times.table.items()
        ]
    return facts


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _times(
    setup: Setup, plan: Plan, model: nn.Module, example: Any
) -> tuple[Times | None, str | None]:
    """Return the times of the layers, and why they do not count, None if they do."""
    if reason := _untimed(setup.experiment, plan):
        return None, reason
    uses = kinds(model, example)
    counts = Counter(kind for own in uses.values() for kind in own)
    busiest = sorted(counts, key=lambda kind: -counts[kind] * kind.work)[:MOST]
    try:
        whole = _known(setup, plan, busiest)
    except Crashed as error:
        return None, f"layers could not be timed: {error}"
    times = Times(uses=uses, table={kind: row for kind, row in whole.items() if row})
    if not times.table:
        return None, f"{plan.runtime} unpacks weights of any width when it loads them"
    return times, None if times.differ() else f"no layer's time depends on bits in {plan.runtime}"


def _untimed(experiment: Experiment, plan: Plan) -> str | None:
    """Return why layers are not timed, None if they are."""
    if not plan.encoding.latency:
        return "quantize.mixed.latency is false"
    if device_of(experiment.target.device).accelerator:
        return f"layers are timed alone on CPUs only, the target is {experiment.target.device}"
    if plan.placement.count > 1:
        return "layers are not timed alone where several devices share them"
    return None


def _known(setup: Setup, plan: Plan, wanted: Sequence[Kind]) -> Table:
    """Return the rows of `wanted`; what is not in the run's cache is measured and kept there."""
    # what a layer executes does not depend on what others get
    encoding = dataclasses.replace(plan.encoding, mean_bits=max(WIDTHS), latency=False, widths=())
    place = setup.cache.place(
        "layers", runtime=plan.runtime, encoding=encoding, machine=processor()
    )
    file = place.with_suffix(".json")
    with setup.cache.alone(place):
        table = _read(file) if file.is_file() else {}
        missing = [kind for kind in wanted if kind not in table]
        if missing:
            table |= _measured(setup, plan.runtime, encoding, missing)
            write_json(file, [_row(kind, row) for kind, row in table.items()])
    return {kind: table[kind] for kind in wanted}


def _row(kind: Kind, row: Mapping[int, Time]) -> dict[str, Any]:
    return {
        "kind": dataclasses.asdict(kind),
        "times": {str(bits): dataclasses.asdict(own) for bits, own in row.items()},
    }


def _read(file: Path) -> Table:
    return {
        Kind.parse(row["kind"]): {int(b): Time(**own) for b, own in row["times"].items()}
        for row in json.loads(file.read_text())
    }


def _measured(setup: Setup, runtime: str, encoding: Encoding, wanted: Sequence[Kind]) -> Table:
    """Return the times of layers with each of WIDTHS, as the runtime executes them alone.

    Widths that the runtime unpacks take the same time, and one of them is timed for all. Where
    it unpacks all of them for the first kind of a type, it is taken to do so for the others.
    """
    table: Table = {}
    timed: dict[Kind, dict[int, Path]] = {}
    plain: set[str] = set()  # types whose weights are all unpacked
    with _folder(setup.scratch) as folder:
        for index, kind in enumerate(wanted):
            table[kind] = {}
            if kind.type in plain:
                continue
            exports = {b: folder / f"{index}-{b}" for b in WIDTHS}
            unpacked = _exported(setup.experiment, runtime, encoding, kind, exports)
            if unpacked is None:
                continue
            if len(unpacked) == len(WIDTHS):
                plain.add(kind.type)
                continue
            one = {b: unpacked[0] if b in unpacked else b for b in WIDTHS}
            timed[kind] = {bits: exports[own] for bits, own in one.items()}
        found = setup.lane.layers(setup.experiment, _by_folder(timed)) if timed else {}
    for kind, folders in timed.items():
        table[kind] = {bits: Time(**found[folder]) for bits, folder in folders.items()}
    return table


def _by_folder(timed: Mapping[Kind, Mapping[int, Path]]) -> dict[Path, Kind]:
    return {folder: kind for kind, folders in timed.items() for folder in folders.values()}


def _exported(
    experiment: Experiment,
    runtime: str,
    encoding: Encoding,
    kind: Kind,
    folders: Mapping[int, Path],
) -> list[int] | None:
    """Export a layer with each number of bits; return which of them the runtime unpacks.

    None where the runtime cannot export a model of this layer alone.
    """
    # a layer's inputs may have more rows than the target has samples
    target = dataclasses.replace(experiment.target, batch_size=kind.shape[0])
    model, inputs, unpacked = Alone(kind=kind).model(), kind.inputs(), []
    for bits, folder in folders.items():
        own = dataclasses.replace(encoding, widths=((WEIGHT, bits),))
        export = Export(
            model=model,
            reference=model,
            example=inputs,
            signature=signature_of(model, inputs, target),
            encoding=own,
            calibration=[inputs] if encoding.activation_bits < 32 else (),
            target=target,
            folder=folder,
        )
        try:
            manifest = artifacts.write(folder, runtime, experiment.runtime(runtime), export, {})
        except Infeasible:
            return None
        if manifest["notes"].get("unpacked_layers"):
            unpacked.append(bits)
    return unpacked


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
