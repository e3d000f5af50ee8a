"""Trees of tensors: flatten, rebuild, transform and slice nested tuples and dicts of tensors."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Fields(dict[str, Any]):
    """Named outputs whose fields are also attributes, as in the output classes of models."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def call(model: nn.Module, inputs: Any) -> Any:
    """Return the outputs of `model`; a tuple of inputs is passed by position, a dict by keyword."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def flatten(tree: Any) -> tuple[list[Tensor], Any]:
    """Return the tensors of `tree` in order, and a JSON-serialisable spec of its structure.

    Fields of a mapping that are None, or the keys and values that decoders of transformers keep for
    the next token, are dropped. Raises TypeError for leaves that are no tensors.
    """
    if isinstance(tree, Tensor):
        return [tree], "tensor"
    if isinstance(tree, Mapping):
        items = [(str(k), v) for k, v in tree.items() if v is not None and not _cache(v)]
        parts = [(key, *flatten(value)) for key, value in items]
        return [t for _, ts, _ in parts for t in ts], {"fields": [[k, s] for k, _, s in parts]}
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        pieces = [flatten(value) for value in tree]
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return [t for ts, _ in pieces for t in ts], {kind: [s for _, s in pieces]}
    raise TypeError(f"expected tensors, tuples or dicts of tensors, got {type(tree).__name__}")


def _cache(value: Any) -> bool:
    """Return True for keys and values that decoders of transformers keep."""
    # by their module, since transformers may not be installed
    return any(kind.__module__ == "transformers.cache_utils" for kind in type(value).__mro__)


def unflatten(tensors: Sequence[Tensor], spec: Any) -> Any:
    """Return the tree that `flatten` took apart; mappings become Fields.

    Raises ValueError if there are more tensors than `spec` describes.
    """
    stream = iter(tensors)
    tree = _take(stream, spec)
    if next(stream, None) is not None:
        raise ValueError(f"more tensors than {json.dumps(spec)} describes")
    return tree


def _take(stream: Iterator[Tensor], spec: Any) -> Any:
    if spec == "tensor":
        return next(stream)
    if "fields" in spec:
        return Fields((name, _take(stream, inner)) for name, inner in spec["fields"])
    kind = "tuple" if "tuple" in spec else "list"
    values = [_take(stream, inner) for inner in spec[kind]]
    return tuple(values) if kind == "tuple" else values


def names(spec: Any, prefix: str = "") -> list[str]:
    """Return one identifier per tensor of a spec: `input_ids`, or `0`, `1` for positions."""
    if spec == "tensor":
        return [prefix or "0"]
    if "fields" in spec:
        pairs = [(name, inner) for name, inner in spec["fields"]]
    else:
        pairs = [(str(i), inner) for i, inner in enumerate(next(iter(spec.values())))]
    joint = f"{prefix}." if prefix else ""
    return [leaf for name, inner in pairs for leaf in names(inner, joint + name)]


def transform(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return `tree` with `function` applied to each tensor."""
    tensors, spec = flatten(tree)
    return _plain(unflatten([function(t) for t in tensors], spec))


def _plain(tree: Any) -> Any:
    """Return Fields as plain dicts, since user code may check for the exact type."""
    if isinstance(tree, Fields):
        return {k: _plain(v) for k, v in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(_plain(v) for v in tree)
    return tree


def length(tree: Any) -> int:
    """Return the number of samples: dimension 0 of the first tensor.

    Raises TypeError if that tensor is a scalar.
    """
    first = flatten(tree)[0][0]
    if first.dim() == 0:
        raise TypeError("a batch needs the samples in dimension 0, got a scalar tensor")
    return int(first.shape[0])


def concatenate(trees: Sequence[Any]) -> Any:
    """Return batches joined along dimension 0; Fields stay Fields."""
    parts = [flatten(tree) for tree in trees]
    columns = zip(*(tensors for tensors, _ in parts), strict=True)
    return unflatten([torch.cat(column) for column in columns], parts[0][1])


def rows(tree: Any, index: slice | Tensor) -> Any:
    """Return the samples at `index` of dimension 0; Fields stay Fields."""
    tensors, spec = flatten(tree)
    return unflatten([t[index] for t in tensors], spec)


def plain(tree: Any) -> Any:
    """Return `tree` with dicts in place of Fields."""
    return _plain(tree)
