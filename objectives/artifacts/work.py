"""Operations and bytes of a candidate that is exported."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from objectives.runtime import Export
from objectives.work import Work
from spaces import Encoding
from spaces.modules import Convolution, own_parameters

_PRODUCTS = nn.Linear | Convolution
_TABLES = (nn.Embedding, nn.EmbeddingBag)
"""Layers that read a few rows of their weight; these rows are not counted."""
_OUTPUT_BYTES = 4


def work_of(export: Export) -> Work:
    """Return the work of a batch; raises ValueError if the export has no operations."""
    if export.operations is None:
        raise ValueError("the operations of this export were not counted")
    return Work(
        operations=export.operations.count,
        bytes=_weight_bytes(export) + _input_bytes(export) + _output_bytes(export),
        precision=precision_of(export.encoding),
        uncounted=export.operations.uncounted,
    )


def precision_of(encoding: Encoding) -> str:
    """Return the type in which an encoding computes products: int8 or a floating-point type."""
    integers = encoding.activation_bits == 8 and encoding.weight_bits <= 8
    return "int8" if integers else encoding.dtype


def _weight_bytes(export: Export) -> int:
    bits = sum(weight.numel() * bits for weight, bits in _stored(export))
    return math.ceil(bits / 8)


def _stored(export: Export) -> Iterator[tuple[Tensor, int]]:
    """Yield each weight that a batch reads in full, once, with its bits."""
    encoding, seen = export.encoding, set()
    for prefix, module in export.model.named_modules():
        if isinstance(module, _TABLES):
            continue
        for name, weight in own_parameters(module).items():
            if id(weight) in seen:
                continue
            seen.add(id(weight))
            codes = export.codes.get(f"{prefix}.{name}" if prefix else name)
            product = isinstance(module, _PRODUCTS) and name == "weight"
            yield weight, codes.bits if codes else _bits(encoding, product=product)


def _bits(encoding: Encoding, *, product: bool) -> int:
    if product and (encoding.weight_bits == 8 or encoding.dtype == "float8"):
        return 8
    return 32 if encoding.dtype in ("float32", "tf32") else 16


def _input_bytes(export: Export) -> int:
    signature = export.signature
    return sum(
        math.prod(shape) * getattr(torch, kind).itemsize
        for shape, kind in zip(signature.input_shapes, signature.input_types, strict=True)
    )


def _output_bytes(export: Export) -> int:
    return _OUTPUT_BYTES * sum(map(math.prod, export.signature.output_shapes))
