"""Checkpoints of users: state dicts in safetensors or PyTorch files, loaded into a model."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spaces import first_line

HOLDERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net")
"""Keys under which training scripts keep the state dict beside other things."""
UNREADABLE = (
    *(OSError, EOFError, SafetensorError, pickle.UnpicklingError),
    *(RuntimeError, ValueError, TypeError, AttributeError, LookupError),
)
"""Errors of PyTorch and safetensors for files that they did not write."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""Beginnings of names that DataParallel, torch.compile and Lightning modules add."""


def load_checkpoint(
    model: nn.Module, file: Path, of: str, *, without: tuple[str, ...] = ()
) -> None:
    """Load the state dict in `file` into `model`, which is named by `of` in errors.

    Tensors whose names start with one of `without` are left out.

    Raises ValueError if the file cannot be read, or does not have exactly the model's tensors.
    """
    state, own = state_of(file), model.state_dict()
    for prefix in PREFIXES:
        if not state.keys() & own.keys() and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    state = {n: t for n, t in state.items() if not n.startswith(without)}
    if fault := _fault(state, own):
        raise ValueError(f"{file} does not fit {of}: {fault}")
    model.load_state_dict(state, strict=False)


def state_of(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name; raises ValueError if there are none."""
    if not file.is_file():
        raise ValueError(f"there is no checkpoint at {file}")
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{file} {_ADVICE} ({first_line(error)})") from error
    for holder in HOLDERS:
        if isinstance(content, Mapping) and isinstance(content.get(holder), Mapping):
            content = content[holder]
            break
    if not _is_state(content):
        raise ValueError(f"{file} {_ADVICE} (it holds {_kind(content)})")
    return dict(content)


_ADVICE = (
    "cannot be read as a state dict: write it with torch.save(model.state_dict(), FILE) or "
    "safetensors.torch.save_model(model, FILE)"
)


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(v, Tensor) for v in content.values())
    )


def _fault(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Return in words the first way in which a state dict is not that of a model; else ""."""
    for name, tensor in state.items():
        if name in own and tensor.shape != own[name].shape:
            return f"{name} has shape {list(tensor.shape)}, the model's {list(own[name].shape)}"
    # Checkpoints of old versions lack this counter, which no trained model reads.
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    if missing:
        return f"it lacks {_listed(missing)}"
    unknown = [name for name in state if name not in own]
    return f"the model has no {_listed(unknown)}" if unknown else ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def _kind(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict with {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    return f"a {type(content).__name__}"
