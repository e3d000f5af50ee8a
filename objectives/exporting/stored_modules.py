"""Modules on disk: `architecture.json`, and `weights.safetensors` with some weights in few bits."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from objectives.exporting.codes import layout, zero_points
from objectives.exporting.sparse_tensors import packed, unpacked
from spaces import Infeasible
from spaces.modules import ARCHITECTURE, WEIGHTS, Codes, describe, planes, rebuild, tensors, unpack

_SCALE = ".scale"
"""Suffix for the name of a weight's scale. No tensor of a model has such a name: if `x` is a
tensor, there is no module `x` that could have a tensor `x.scale`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rounded:
    """A weight as 8-bit numbers: `values` times `scale`, one for each row of dimension 0."""

    values: Tensor
    """int8 or float8_e4m3fn, in the shape of the weight."""
    scale: Tensor
    """float32, (rows,)."""

    def floats(self) -> Tensor:
        """Return the dequantized weight in float32."""
        shape = [-1] + [1] * (self.values.dim() - 1)
        return self.values.float() * self.scale.reshape(shape)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """A module that `read` restored from its folder."""

    model: nn.Module
    """The model in float32, whatever type its weights are stored in."""
    layers: dict[str, Rounded]
    """The weights that were written as 8-bit numbers, by layer."""
    codes: dict[str, Codes]
    """The weights that were written as codes, by parameter."""


def rounded(weight: Tensor, kind: torch.dtype = torch.int8) -> Rounded:
    """Round a weight to integers -127..127 or to float8, with a scale per row of dimension 0."""
    top = 127.0 if kind is torch.int8 else torch.finfo(kind).max
    largest = weight.detach().float().flatten(1).abs().amax(1)
    scale = (largest / top).clamp(min=torch.finfo(torch.float32).tiny)
    steps = weight.detach().float() / scale.reshape([-1] + [1] * (weight.dim() - 1))
    values = steps.round() if kind is torch.int8 else steps
    return Rounded(values=values.clamp(-top, top).to(kind), scale=scale)


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
    """Write `model` into an existing folder, as an edit of `reference`.

    The weights of `layers` are written `rounded` to `kind`, those in `codes`, by parameter, as
    codes in the `layout` for `coder`. Raises Infeasible if the structure of `model` cannot be
    described as an edit of `reference`.
    """
    try:
        description, state = describe(reference, model), tensors(reference, model)
    except ValueError as error:
        raise Infeasible(f"The model cannot be stored: {error}.") from error
    for key in {f"{layer}.weight".lstrip(".") for layer in layers} & set(state):
        weight = rounded(state[key], kind)
        state |= {key: weight.values, key + _SCALE: weight.scale}
    notes = {}
    for name, weight_codes in (codes or {}).items():
        del state[name]
        parts, notes[name] = _encode(weight_codes, coder)
        state |= {f"{name}{suffix}": part for suffix, part in parts.items()}
    if notes:
        description["codes"] = notes
    save_file(packed(state), folder / WEIGHTS)
    (folder / ARCHITECTURE).write_text(json.dumps(description), encoding="utf-8")


def read(folder: Path, reference_copy: nn.Module) -> Stored:
    """Restore a module that `write` wrote; `reference_copy` becomes its model."""
    description = json.loads((folder / ARCHITECTURE).read_text(encoding="utf-8"))
    state = unpacked(load_file(folder / WEIGHTS))
    codes = {
        name: _decode(name, note, state) for name, note in description.pop("codes", {}).items()
    }
    state |= {name: weight_codes.floats() for name, weight_codes in codes.items()}
    layers: dict[str, Rounded] = {}
    for name in [name for name in state if name + _SCALE in state]:
        weight = Rounded(values=state[name], scale=state.pop(name + _SCALE))
        layers[name.rpartition(".")[0]] = weight
        state[name] = weight.floats()
    model = rebuild(reference_copy, description, state)
    return Stored(model=model, layers=layers, codes=codes)


def _encode(codes: Codes, coder: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors that store codes, by suffix, and the note that is needed to read them."""
    packed_codes = layout(codes, coder)
    parts = {f"|{i}": part.clone() for i, part in enumerate(packed_codes.parts)}
    parts["|s"] = codes.scale.contiguous()
    if codes.book is not None:
        parts["|b"] = codes.book
    else:
        parts["|z"] = zero_points(codes).contiguous()
    note = {
        "bits": packed_codes.bits,
        "shape": list(codes.shape),
        "group": codes.codes.shape[-1],
    }
    return parts, note


def _decode(name: str, note: Mapping[str, Any], state: dict[str, Tensor]) -> Codes:
    """Return a weight's codes from the tensors that store them, which leave `state`."""
    bits, shape = note["bits"], tuple(note["shape"])
    parts = [state.pop(f"{name}|{i}") for i in range(len(planes(bits)))]
    flat = unpack(parts, bits, torch.Size(shape).numel())
    zero = state.pop(f"{name}|z", torch.zeros(1, 1, 1))
    return Codes(
        codes=flat.reshape(shape[0], -1, note["group"]),
        bits=bits,
        shape=shape,
        scale=state.pop(f"{name}|s"),
        zero=zero.float(),
        book=state.pop(f"{name}|b", None),
    )
