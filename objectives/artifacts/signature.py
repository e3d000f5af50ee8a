"""Signatures: names, shapes and structure of a model's inputs and outputs."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from objectives.runtime import Signature
from objectives.target import Target
from spaces.modules import Operations, call, counted, flatten, names


def signature_of(model: torch.nn.Module, inputs: Any, target: Target) -> Signature:
    """Run `model` on one full batch and return the signature of its inputs and outputs.

    Raises ValueError if an output does not have the batch in dimension 0.
    """
    with torch.inference_mode():
        return _signature(inputs, call(model, inputs), target)


def described(model: torch.nn.Module, inputs: Any, target: Target) -> tuple[Signature, Operations]:
    """Run `model` on one full batch; return the signature and the operations of that run.

    Raises ValueError if an output does not have the batch in dimension 0.
    """
    with torch.inference_mode():
        outputs, operations = counted(lambda: call(model, inputs))
    return _signature(inputs, outputs, target), operations


def _signature(inputs: Any, outputs: Any, target: Target) -> Signature:
    tensors, spec = flatten(inputs)
    leaves, structure = flatten(outputs)
    for leaf in leaves:
        if leaf.dim() == 0 or leaf.shape[0] != target.batch_size:
            raise ValueError(
                f"outputs must have the batch of {target.batch_size} in dimension 0, "
                f"got shape {list(leaf.shape)}; return per-sample outputs from forward"
            )
    return Signature(
        inputs=spec,
        input_names=_identifiers("input", names(spec)),
        input_shapes=tuple(tuple(t.shape) for t in tensors),
        input_types=tuple(str(t.dtype).removeprefix("torch.") for t in tensors),
        outputs=structure,
        output_names=_identifiers("output", names(structure)),
        output_shapes=tuple(tuple(t.shape) for t in leaves),
    )


def _identifiers(kind: str, leaves: list[str]) -> tuple[str, ...]:
    """Return names of leaves as ASCII identifiers; positions get `kind` in front."""
    cleaned = (re.sub(r"\W", "_", leaf, flags=re.ASCII) for leaf in leaves)
    return tuple(f"{kind}_{c}" if c[:1].isdigit() else c for c in cleaned)


def signature_from(manifest: Mapping[str, Any]) -> Signature:
    """Rebuild the signature in a manifest."""
    fields = dict(manifest["signature"])
    for name in ("input_names", "input_types", "output_names"):
        fields[name] = tuple(fields[name])
    for name in ("input_shapes", "output_shapes"):
        fields[name] = tuple(tuple(shape) for shape in fields[name])
    return Signature(**fields)
