"""A module on disk: `architecture.json` and `weights.safetensors`, some weights in few bits."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from objectives.exporting.codes import layout, zeros
from objectives.exporting.sparse_tensors import packed, unpacked
from spaces import Infeasible
from spaces.modules import ARCHITECTURE, WEIGHTS, Codes, describe, planes, rebuild, tensors, unpack

_SCALE = ".scale"
"""Ends the name of a weight's scale. Nothing of a model can be called so: where there is a tensor
`x` there is no module `x`, and only what a module holds is called `x.scale`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rounded:
    """A weight as 8-bit numbers: `values` times the `scale` of its row of dimension 0."""

    values: Tensor
    """int8 or float8_e4m3fn."""
    scale: Tensor

    def floats(self) -> Tensor:
        """Return the weight that the numbers stand for."""
        shape = [-1] + [1] * (self.values.dim() - 1)
        return self.values.float() * self.scale.reshape(shape)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """What `read` found in a folder."""

    model: nn.Module
    """The model, in float32 whatever its weights are stored in."""
    layers: dict[str, Rounded]
    """By layer, the 8-bit numbers that its weight was written as."""
    codes: dict[str, Codes]
    """By parameter, the codes that it was written as."""


def rounded(weight: Tensor, kind: torch.dtype = torch.int8) -> Rounded:
    """Return a weight in integers -127..127 or in float8, with a scale per row of dimension 0."""
    top = 127.0 if kind is torch.int8 else torch.finfo(kind).max
    largest = weight.detach().float().flatten(1).abs().amax(1)
    scale = (largest / top).clamp(min=torch.finfo(torch.float32).tiny)
    steps = weight.detach().float() / scale.reshape([-1] + [1] * (weight.dim() - 1))
    whole = steps.round() if kind is torch.int8 else steps
    return Rounded(values=whole.clamp(-top, top).to(kind), scale=scale)


def write(
    folder: Path,
    reference: nn.Module,
    model: nn.Module,
    layers: Collection[str] = (),
    *,
    kind: torch.dtype = torch.int8,
    codes: Mapping[str, Codes] | None = None,
    coder: str = "none",
) -> None:
    """Write `model` into an existing folder, the weights of the named layers `rounded` to a kind.

    The weights in `codes`, by parameter, are written as those, in as few bytes as they take.
    Raises Infeasible when its structure cannot be described as an edit of `reference`.
    """
    try:
        description, kept = describe(reference, model), tensors(reference, model)
    except ValueError as error:
        raise Infeasible(f"The model cannot be stored: {error}.") from error
    for key in {f"{layer}.weight".lstrip(".") for layer in layers} & set(kept):
        whole = rounded(kept[key], kind)
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


def read(folder: Path, reference_copy: nn.Module) -> Stored:
    """Return what `write` wrote."""
    description = json.loads((folder / ARCHITECTURE).read_text(encoding="utf-8"))
    kept = unpacked(load_file(folder / WEIGHTS))
    codes = {
        name: _decoded(name, note, kept) for name, note in description.pop("codes", {}).items()
    }
    kept |= {name: own.floats() for name, own in codes.items()}
    layers: dict[str, Rounded] = {}
    for name in [name for name in kept if name + _SCALE in kept]:
        whole = Rounded(values=kept[name], scale=kept.pop(name + _SCALE))
        layers[name.rpartition(".")[0]] = whole
        kept[name] = whole.floats()
    model = rebuild(reference_copy, description, kept)
    return Stored(model=model, layers=layers, codes=codes)


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


def _decoded(name: str, note: Mapping[str, Any], kept: dict[str, Tensor]) -> Codes:
    """Return the codes of a weight out of the tensors that stand for it, which leave `kept`."""
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
    )
