"""Structural edits of a model as plain data: pruned models as JSON and safetensors files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spaces.modules.dropped import Dropped, drop
from spaces.modules.pruned_attention import PrunedAttention

WEIGHTS = "weights.safetensors"
ARCHITECTURE = "architecture.json"
_FORMAT = 1
_REPLACEMENTS: dict[str, type[nn.Module]] = {"PrunedAttention": PrunedAttention, "Dropped": Dropped}
"""The only classes that an edit may give to a module, by their names in files."""

_Attributes = dict[str, int | bool | tuple[int, ...]]


def achieved(reference: nn.Module, model: nn.Module) -> float:
    """Return the fraction of the reference's weights that were removed from `model`, 0..1."""
    before, after = (sum(p.numel() for p in m.parameters()) for m in (reference, model))
    return 1 - after / before


def zeros(model: nn.Module) -> int:
    """Return the number of weights of `model` that are zero."""
    return sum(int((weight == 0).sum()) for weight in model.parameters())


def dropped(model: nn.Module) -> list[str]:
    """Return the names of the dropped blocks of `model`, in its order."""
    return [name for name, module in model.named_modules() if isinstance(module, Dropped)]


def describe(reference: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Describe the structural differences of `model` from `reference` as JSON-serialisable data.

    For each module: its new class, if any, and the integer, boolean and tuple-of-integer
    attributes that differ. For each parameter and buffer: its new shape, but no values. Modules
    below a Dropped are omitted. Raises ValueError for any other kind of difference.
    """
    old, new = dict(reference.named_modules()), dict(model.named_modules())
    empty = tuple(f"{name}." for name, module in new.items() if isinstance(module, Dropped))
    before = {name: t for name, t in _tensors(reference).items() if not name.startswith(empty)}
    _require_same("modules", {name for name in old if not name.startswith(empty)}, set(new))
    _require_same("tensors", set(before), set(_tensors(model)))
    attributes = {name: _changed(old[name], module) for name, module in new.items()}
    classes = {name: _replacement(name, old[name], module) for name, module in new.items()}
    return {
        "format": _FORMAT,
        "classes": {name: kind for name, kind in classes.items() if kind is not None},
        "attributes": {name: changed for name, changed in attributes.items() if changed},
        "shapes": {
            name: list(tensor.shape)
            for name, tensor in _tensors(model).items()
            if tensor.shape != before[name].shape
        },
    }


def tensors(reference: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that `rebuild` needs: contiguous, detached, each tied tensor once.

    They are all parameters and persistent buffers, and those other buffers that differ from the
    reference's.
    """
    before, selected, seen = _tensors(reference), {}, set()
    transient = _transient(model)
    for name, tensor in _tensors(model).items():
        if name in transient and _equal(tensor, before[name]):
            continue
        if id(tensor) not in seen:
            seen.add(id(tensor))
            # copied, so that the file holds neither more than a view nor shared storage twice
            selected[name] = tensor.detach().contiguous().clone()
    return selected


def rebuild(
    reference_copy: nn.Module, description: dict[str, Any], tensors: dict[str, Tensor]
) -> nn.Module:
    """Edit `reference_copy` as `description` says, fill in `tensors` and return it.

    Tied parameters stay tied. Raises ValueError if a module or tensor is unknown or missing, or
    if a shape differs from the one in the description or the reference.
    """
    if description.get("format") != _FORMAT:
        raise ValueError(f"unknown format {description.get('format')!r}, expected {_FORMAT}")
    modules = dict(reference_copy.named_modules())
    changes = {**description["classes"], **description["attributes"]}
    _require_known("modules", set(changes), set(modules))
    for name, kind in description["classes"].items():
        if kind not in _REPLACEMENTS:
            raise ValueError(f"unknown class {kind!r} for {name!r}, know {sorted(_REPLACEMENTS)}")
        if kind == Dropped.__name__:
            drop(modules[name])
        modules[name].__class__ = _REPLACEMENTS[kind]
    for name, changed in description["attributes"].items():
        for key, value in changed.items():
            setattr(modules[name], key, tuple(value) if isinstance(value, list) else value)
    _fill(reference_copy, description["shapes"], tensors)
    return reference_copy


def save(folder: Path, reference: nn.Module, model: nn.Module) -> None:
    """Write `weights.safetensors` and `architecture.json` into an existing folder."""
    description = describe(reference, model)
    save_file(tensors(reference, model), folder / WEIGHTS)
    (folder / ARCHITECTURE).write_text(json.dumps(description, indent=1), encoding="utf-8")


def load(folder: Path, reference_copy: nn.Module) -> nn.Module:
    """Return the model that `save` wrote, rebuilt from a fresh copy of its reference."""
    description = json.loads((folder / ARCHITECTURE).read_text(encoding="utf-8"))
    return rebuild(reference_copy, description, load_file(folder / WEIGHTS))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; tied ones under each of their names."""
    by_name: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    by_name.update(model.named_buffers(remove_duplicate=False))
    return by_name


def _transient(model: nn.Module) -> set[str]:
    """Return the names of the buffers that are not part of the state dict."""
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return buffers - model.state_dict(keep_vars=True).keys()


def _changed(old: nn.Module, new: nn.Module) -> _Attributes:
    """Return the plain attributes of `new` that differ; training mode is not structure."""
    return {
        key: value
        for key, value in _plain(new)
        if key != "training" and (key not in vars(old) or vars(old)[key] != value)
    }


def _plain(module: nn.Module) -> Iterator[tuple[str, int | bool | tuple[int, ...]]]:
    for key, value in vars(module).items():
        integers = isinstance(value, tuple) and all(type(v) is int for v in value)
        if type(value) in (int, bool):
            yield key, value
        elif integers:
            yield key, tuple(value)


def _replacement(name: str, old: nn.Module, new: nn.Module) -> str | None:
    if type(old) is type(new):
        return None
    kind = type(new).__name__
    if _REPLACEMENTS.get(kind) is not type(new):
        raise ValueError(f"{name!r} became a {kind}, which no description can express")
    return kind


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())


def _fill(model: nn.Module, shapes: dict[str, list[int]], tensors: dict[str, Tensor]) -> None:
    """Put `tensors` into the parameters and buffers of `model`, in place, each once."""
    by_name = _tensors(model)
    _require_known("tensors", set(tensors) | set(shapes), set(by_name))
    filled = {id(by_name[name]) for name in tensors}
    optional = {name for name in _transient(model) if name not in shapes}
    missing = {n for n, t in by_name.items() if id(t) not in filled and n not in optional}
    if missing:
        raise ValueError(f"no values for tensors {sorted(missing)}")
    for name, tensor in tensors.items():
        expected = shapes.get(name, list(by_name[name].shape))
        if list(tensor.shape) != expected:
            raise ValueError(f"{name!r} has shape {list(tensor.shape)}, expected {expected}")
    for name, tensor in tensors.items():
        by_name[name].data = tensor  # the parameter object stays, hence all its ties


def _require_same(kind: str, old: set[str], new: set[str]) -> None:
    if old != new:
        raise ValueError(
            f"the {kind} differ from the reference's: without {sorted(old - new)}, "
            f"with {sorted(new - old)}; only sizes and attributes can be described"
        )


def _require_known(kind: str, named: set[str], known: set[str]) -> None:
    if named - known:
        raise ValueError(f"the reference has no {kind} {sorted(named - known)}")
