"""The weights of a candidate as codes: those that training left on a grid, others rounded."""

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from spaces.devices import HOST, device_of
from spaces.modules import Codes, batchnorm_statistics, compact, own_parameters, placed
from spaces.modules.structure import matrices, readers
from spaces.plan import Encoding
from spaces.quantization.allocation import WIDTHS, widths
from spaces.quantization.gptq import compensated
from spaces.quantization.grid import fitted, nearest, recovered, width_of
from spaces.quantization.kmeans import clustered, recovered_book
from spaces.quantization.layers import Layer, layers
from spaces.task import Task

LARGEST = 4096
"""Columns above which errors are not compensated: that takes the cube of their number."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A model whose weights are exactly what their codes stand for."""

    model: nn.Module
    codes: dict[str, Codes]
    """By name of the parameter."""

    def facts(self) -> dict[str, Any]:
        """Return the bits of each weight, and their mean, for the record."""
        sizes = {name: codes.codes.numel() for name, codes in self.codes.items()}
        total = sum(c.bits * sizes[name] for name, c in self.codes.items())
        return {
            "bits": {name: codes.bits for name, codes in self.codes.items()},
            "mean_bits": round(total / max(1, sum(sizes.values())), 3),
        }


def encoded(
    model: nn.Module, task: Task | None, encoding: Encoding, device: torch.device | str = "cpu"
) -> Encoded:
    """Return a copy of `model`, in evaluation mode, with its weights in codes as `encoding` asks.

    All is computed on `device`, and returned on the CPU.

    Weights that lie on a grid already (or have few values, for codebooks) keep their exact
    values. Others are rounded: with a task so that errors make up for each other on training
    inputs, and with the batch normalisation's statistics estimated again; without one to the
    nearest value.
    """
    task = None if task is None else placed(task, device)
    model = copy.deepcopy(model).eval().to(device)
    found = layers(model)
    kept = {name: codes for name, layer in found.items() if (codes := _kept(name, layer, encoding))}
    if len(kept) < len(found):
        with device_of(device).exact():
            kept = rounded(model, task, encoding)
            if task is not None:
                _fill(found, kept)
                batchnorm_statistics.reestimate(model, task)
    _fill(found, kept)
    kept = {name: codes.to(HOST) for name, codes in kept.items()}
    return Encoded(model=model.cpu(), codes=kept)


def _fill(found: dict[str, Layer], codes: dict[str, Codes]) -> None:
    for name, layer in found.items():
        layer.weight.data = codes[name].floats()


def _kept(name: str, layer: Layer, encoding: Encoding) -> Codes | None:
    """Return the codes of a weight that training has left on a grid.

    With the bits that were allocated to it, or the fewest where that is not said.
    """
    weight = layer.weight
    if encoding.cluster_bits < 32:
        return recovered_book(weight, encoding.cluster_bits)
    asked = {encoding.weight_bits, 8, 4}
    if encoding.mean_bits < 32:
        asked = {dict(encoding.widths)[name]} if encoding.widths else set(WIDTHS)
    for bits in sorted(asked - {32}):
        width = width_of(weight.detach(), bits)
        if codes := recovered(weight, width, layer.group(encoding, bits)):
            return codes
    return None


def rounded(model: nn.Module, task: Task | None, encoding: Encoding) -> dict[str, Codes]:
    """Return the codes of the weights of `model`, which is in evaluation mode, by name.

    Where there is a task, biases of layers take over what is left of their weights' errors.
    """
    found = layers(model)
    if encoding.cluster_bits < 32:
        return {n: clustered(layer.weight, encoding.cluster_bits) for n, layer in found.items()}
    bits = widths(model, task, encoding)
    small = [
        name.removesuffix(".weight")
        for name, layer in found.items()
        if name.endswith(".weight")
        and bits[name] < 8
        and layer.columns <= LARGEST
        # its rows are inputs: nothing makes up for their errors
        and not matrices.transposed(layer.module)
    ]
    read_by = {} if task is None else readers.observe(model, task, small)
    return {
        name: _codes(layer, bits[name], encoding, read_by.get(name.removesuffix(".weight")))
        for name, layer in found.items()
    }


def _codes(layer: Layer, bits: int, encoding: Encoding, reader: readers.Reader | None) -> Codes:
    """Return the codes of one weight; with what its layer reads, errors are made up for."""
    weight = layer.weight.detach().float()
    group = layer.group(encoding, bits)
    values = weight.reshape(len(weight), -1, group)
    importance = None
    if reader is not None:
        energy = _energy(reader, layer.columns)
        importance = energy.reshape(1, -1, group)
    scale, zero = fitted(values, bits, symmetric=encoding.symmetric, importance=importance)
    codes = nearest(values, scale, zero, bits)
    if reader is not None:
        codes, bias = _compensated(reader, codes, scale, zero, bits)
        _take(layer.module, bias)
    return compact(
        Codes(
            codes=codes,
            bits=width_of(weight, bits),
            shape=tuple(weight.shape),
            scale=scale,
            zero=zero,
        )
    )


def _energy(reader: readers.Reader, columns: int) -> Tensor:
    """Return the mean square of what each weight of a row multiplies, (columns,)."""
    parts = zip(reader.parts, reader.moments, strict=True)
    return torch.cat([m.diagonal()[part < columns] for part, m in parts]).float()


def _compensated(
    reader: readers.Reader, codes: Tensor, scale: Tensor, zero: Tensor, bits: int
) -> tuple[Tensor, Tensor]:
    """Return codes (rows, groups, group) whose errors the later columns of a part made up for.

    `codes` are the nearest, and stay where a part of a wide layer does not hold whole groups. Also
    returns what became of the bias, (rows, 1), or nothing, (rows, 0).
    """
    matrix, weights = reader.matrix, codes.shape[1] * codes.shape[2]
    flat = codes.reshape(len(codes), weights).clone()
    extra = matrix[:, weights:].float()
    start = extra.clone()
    for part, moments in zip(reader.parts, reader.moments, strict=True):
        own = part[part < weights]
        group = min(codes.shape[2], len(own))
        if len(own) % group or int(own[0]) % group:
            continue
        at = slice(0, 1) if codes.shape[1] == 1 else slice(own[0] // group, own[-1] // group + 1)
        scales, zeros = (t if t.shape[1] == 1 else t[:, at] for t in (scale, zero))
        wide = scales.expand(len(codes), len(own) // group, 1)
        chosen, moved = compensated(
            matrix[:, part], moments, wide, zeros.expand_as(wide), bits, group
        )
        flat[:, own] = chosen.reshape(len(codes), -1)
        extra += moved - start
    return flat.reshape(codes.shape), extra


def _take(module: nn.Module, bias: Tensor) -> None:
    """Give a layer the bias that took the errors of its weights over."""
    own = own_parameters(module).get("bias")
    if own is not None and bias.numel():
        with torch.no_grad():
            own.copy_(bias.flatten())
