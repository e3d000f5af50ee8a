"""Structural edits of a model as plain data: pruned models travel as safetensors and JSON."""

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
"""The only classes an edit may give a module, by the name that stands for them in a file."""

_Attributes = dict[str, int | bool | tuple[int, ...]]


def achieved(reference: nn.Module, model: nn.Module) -> float:
    """Return the fraction of the reference's weights that `model` does without, 0..1."""
    before, after = (sum(p.numel() for p in m.parameters()) for m in (reference, model))
    return 1 - after / before


def zeros(model: nn.Module) -> int:
    """Return how many weights of `model` are zero."""
    return sum(int((weight == 0).sum()) for weight in model.parameters())


def dropped(model: nn.Module) -> list[str]:
    """Return the names of the blocks that `model` does without, in its order."""
    return [name for name, module in model.named_modules() if isinstance(module, Dropped)]


def describe(reference: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Return, JSON-serialisable, how the structure of `model` differs from `reference`'s.

    For each module: its new class, if any, and the integer, boolean and tuple-of-integer
    attributes that differ. For each parameter and buffer: its new shape. Values are not described.
    What was below a module that is Dropped is gone.
    Raises ValueError on a difference of any other kind.
    """
    old, new = dict(reference.named_modules()), dict(model.named_modules())
    gone = tuple(f"{name}." for name, module in new.items() if isinstance(module, Dropped))
    before = {name: t for name, t in _tensors(reference).items() if not name.startswith(gone)}
    _require_same("modules", {name for name in old if not name.startswith(gone)}, set(new))
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
    """Return what `rebuild` needs of `model`: contiguous, detached, each tied tensor once.

    These are all parameters and persistent buffers, and of the other buffers those that
    differ from the reference's.
    """
    before, kept, seen = _tensors(reference), {}, set()
    transient = _transient(model)
    for name, tensor in _tensors(model).items():
        if name in transient and _equal(tensor, before[name]):
            continue
        if id(tensor) not in seen:
            seen.add(id(tensor))
            # a view is copied: files must not hold more than the tensor, nor storage twice
            kept[name] = tensor.detach().contiguous().clone()
    return kept


def rebuild(
    reference_copy: nn.Module, description: dict[str, Any], tensors: dict[str, Tensor]
) -> nn.Module:
    """Return `reference_copy`, edited as `description` says and holding `tensors`.

    Tied parameters stay tied. Raises ValueError when a module or tensor is unknown or missing, or
    when a shape is not the one that the description and the reference lead to expect.
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
    """Return the model that `save` wrote, made out of a fresh copy of its reference."""
    description = json.loads((folder / ARCHITECTURE).read_text(encoding="utf-8"))
    return rebuild(reference_copy, description, load_file(folder / WEIGHTS))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; tied ones under each of their names."""
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found.update(model.named_buffers(remove_duplicate=False))
    return found


def _transient(model: nn.Module) -> set[str]:
    """Return the names of buffers that a state dict leaves out."""
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
        whole = isinstance(value, tuple) and all(type(v) is int for v in value)
        if type(value) in (int, bool):
            yield key, value
        elif whole:
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
    own = _tensors(model)
    _require_known("tensors", set(tensors) | set(shapes), set(own))
    given = {id(own[name]) for name in tensors}
    optional = {name for name in _transient(model) if name not in shapes}
    missing = {n for n, t in own.items() if id(t) not in given and n not in optional}
    if missing:
        raise ValueError(f"no values for tensors {sorted(missing)}")
    for name, tensor in tensors.items():
        expected = shapes.get(name, list(own[name].shape))
        if list(tensor.shape) != expected:
            raise ValueError(f"{name!r} has shape {list(tensor.shape)}, expected {expected}")
    for name, tensor in tensors.items():
        own[name].data = tensor  # keeps the object, hence every tie to it


def _require_same(what: str, old: set[str], new: set[str]) -> None:
    if old != new:
        raise ValueError(
            f"the {what} differ from the reference's: without {sorted(old - new)}, "
            f"with {sorted(new - old)}; only sizes and attributes can be described"
        )


def _require_known(what: str, named: set[str], known: set[str]) -> None:
    if named - known:
        raise ValueError(f"the reference has no {what} {sorted(named - known)}")
