"""A module on disk: `architecture.json` and `weights.safetensors`, some weights as integers."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from objectives.runtimes._codes import layout, zeros
from objectives.runtimes._sparse import packed, unpacked
from spaces import Infeasible
from spaces._surgery import ARCHITECTURE, WEIGHTS, describe, rebuild, tensors
from spaces.quantize._codes import Codes, planes, unpack

_SCALE = ".scale"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Integers:
    """A weight as 8-bit integers: `values` times the `scale` of its row of dimension 0."""

    values: Tensor
    scale: Tensor

    def floats(self) -> Tensor:
        """Return the weight that the integers stand for."""
        shape = [-1] + [1] * (self.values.dim() - 1)
        return self.values.float() * self.scale.reshape(shape)


def rounded(weight: Tensor) -> Integers:
    """Return a weight rounded to integers -127..127 with one scale per row of dimension 0."""
    largest = weight.detach().float().flatten(1).abs().amax(1)
    scale = (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
    steps = weight.detach().float() / scale.reshape([-1] + [1] * (weight.dim() - 1))
    return Integers(values=steps.round().clamp(-127, 127).to(torch.int8), scale=scale)


def write(
    folder: Path,
    reference: nn.Module,
    model: nn.Module,
    layers: Collection[str] = (),
    *,
    codes: Mapping[str, Codes] | None = None,
    coder: str = "none",
) -> None:
    """Write `model` into an existing folder, the weights of the named layers as integers.

    The weights in `codes`, by parameter, are written as those, in as few bytes as they take.
    Raises Infeasible when its structure cannot be described as an edit of `reference`.
    """
    try:
        description, kept = describe(reference, model), tensors(reference, model)
    except ValueError as error:
        raise Infeasible(f"The model cannot be stored: {error}.") from error
    for key in {f"{layer}.weight" for layer in layers} & set(kept):
        whole = rounded(kept[key])
        kept |= {key: whole.values, key + _SCALE: whole.scale}
    notes = {}
    for name, own in (codes or {}).items():
        del kept[name]
        parts, notes[name] = _coded(own, coder)
        kept |= {f"{name}{suffix}": part for suffix, part in parts.items()}
    if notes:
        description["codes"] = notes
    save_file(packed(kept), folder / WEIGHTS)
    (folder / ARCHITECTURE).write_text(json.dumps(description), encoding="utf-8")


def read(folder: Path, reference_copy: nn.Module) -> tuple[nn.Module, dict[str, Integers]]:
    """Return the model that `write` wrote, and by layer the integers behind its weights."""
    description = json.loads((folder / ARCHITECTURE).read_text(encoding="utf-8"))
    kept = unpacked(load_file(folder / WEIGHTS))
    for name, note in description.pop("codes", {}).items():
        kept[name] = _decoded(name, note, kept)
    scales = {key: kept.pop(key) for key in list(kept) if key.endswith(_SCALE)}
    layers: dict[str, Integers] = {}
    for key, scale in scales.items():
        name = key.removesuffix(_SCALE)
        whole = Integers(values=kept[name], scale=scale)
        layers[name.removesuffix(".weight")] = whole
        kept[name] = whole.floats()
    return rebuild(reference_copy, description, kept), layers


def _coded(codes: Codes, coder: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors that stand for a weight, by suffix, and what tells how to read them."""
    placed = layout(codes, coder)
    parts = {f"|{i}": part.clone() for i, part in enumerate(placed.parts)}
    parts["|s"] = codes.scale.contiguous()
    parts |= {"|b": codes.book} if codes.book is not None else {"|z": zeros(codes).contiguous()}
    note = {
        "bits": placed.bits,
        "shape": list(codes.shape),
        "group": codes.codes.shape[-1],
    }
    return parts, note


def _decoded(name: str, note: Mapping[str, Any], kept: dict[str, Tensor]) -> Tensor:
    """Return a weight out of the tensors that stand for it, which leave `kept`."""
    bits, shape = note["bits"], tuple(note["shape"])
    parts = [kept.pop(f"{name}|{i}") for i in range(len(planes(bits)))]
    flat = unpack(parts, bits, torch.Size(shape).numel())
    zero = kept.pop(f"{name}|z", torch.zeros(1, 1, 1))
    return Codes(
        codes=flat.reshape(shape[0], -1, note["group"]),
        bits=bits,
        shape=shape,
        scale=kept.pop(f"{name}|s"),
        zero=zero.float(),
        book=kept.pop(f"{name}|b", None),
    ).floats()
