"""Encode a model's weights as codes: recover the grids of training, or round to new ones."""

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
"""Largest number of columns whose errors are compensated, which takes cubic time."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A model whose weights have exactly the values of their codes."""

    model: nn.Module
    codes: dict[str, Codes]
    """By the name of the parameter."""

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
    """Return a copy of `model`, in evaluation mode, with its weights encoded by `encoding`.

    Everything is computed on `device` and returned on the CPU.

    If all weights lie on a grid already (or have few values, for codebooks), they keep their exact
    values. Otherwise they are rounded: with a task such that errors compensate each other on
    training inputs, followed by new statistics of batch normalisation; without one to the nearest
    value.
    """
    task = None if task is None else placed(task, device)
    model = copy.deepcopy(model).eval().to(device)
    by_name = layers(model)
    on_grids = {name: _recovered(name, layer, encoding) for name, layer in by_name.items()}
    codes = {name: c for name, c in on_grids.items() if c}
    if len(codes) < len(by_name):
        with device_of(device).exact():
            codes = rounded(model, task, encoding)
            if task is not None:
                _fill(by_name, codes)
                batchnorm_statistics.reestimate(model, task)
    _fill(by_name, codes)
    codes = {name: c.to(HOST) for name, c in codes.items()}
    return Encoded(model=model.cpu(), codes=codes)


def _fill(by_name: dict[str, Layer], codes: dict[str, Codes]) -> None:
    for name, layer in by_name.items():
        layer.weight.data = codes[name].floats()


def _recovered(name: str, layer: Layer, encoding: Encoding) -> Codes | None:
    """Return the codes of a weight that lies on a grid after training, None if it does not.

    The grid has the bits allocated to the weight; without an allocation, the fewest that fit.
    """
    weight = layer.weight
    if encoding.cluster_bits < 32:
        return recovered_book(weight, encoding.cluster_bits)
    candidates = {encoding.weight_bits, 8, 4}
    if encoding.mean_bits < 32:
        candidates = {dict(encoding.widths)[name]} if encoding.widths else set(WIDTHS)
    for bits in sorted(candidates - {32}):
        width = width_of(weight.detach(), bits)
        if codes := recovered(weight, width, layer.group(encoding, bits)):
            return codes
    return None


def rounded(model: nn.Module, task: Task | None, encoding: Encoding) -> dict[str, Codes]:
    """Return the codes of the weights of `model`, which is in evaluation mode, by name.

    With a task, the biases of layers absorb the remaining errors of their weights.
    """
    by_name = layers(model)
    if encoding.cluster_bits < 32:
        return {n: clustered(layer.weight, encoding.cluster_bits) for n, layer in by_name.items()}
    bits = widths(model, task, encoding)
    compensable = [
        name.removesuffix(".weight")
        for name, layer in by_name.items()
        if name.endswith(".weight")
        and bits[name] < 8
        and layer.columns <= LARGEST
        # its rows are inputs, whose errors nothing can compensate
        and not matrices.transposed(layer.module)
    ]
    read_by = {} if task is None else readers.observe(model, task, compensable)
    return {
        name: _codes(layer, bits[name], encoding, read_by.get(name.removesuffix(".weight")))
        for name, layer in by_name.items()
    }


def _codes(layer: Layer, bits: int, encoding: Encoding, reader: readers.Reader | None) -> Codes:
    """Return the codes of one weight; given its layer's reader, errors are compensated."""
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
        _set_bias(layer.module, bias)
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
    """Return the mean square of the input that each weight of a row multiplies, (columns,)."""
    parts = zip(reader.parts, reader.moments, strict=True)
    return torch.cat([m.diagonal()[part < columns] for part, m in parts]).float()


def _compensated(
    reader: readers.Reader, codes: Tensor, scale: Tensor, zero: Tensor, bits: int
) -> tuple[Tensor, Tensor]:
    """Return codes (rows, groups, group) with errors compensated by later columns of a part.

    `codes` are the nearest codes; they stay if a part of a wide layer does not contain whole
    groups. Also returns the adjusted bias, (rows, 1), or (rows, 0) without a bias.
    """
    matrix, weights = reader.matrix, codes.shape[1] * codes.shape[2]
    flat = codes.reshape(len(codes), weights).clone()
    extra = matrix[:, weights:].float()
    start = extra.clone()
    for part, moments in zip(reader.parts, reader.moments, strict=True):
        columns = part[part < weights]
        group = min(codes.shape[2], len(columns))
        if len(columns) % group or int(columns[0]) % group:
            continue
        groups = (
            slice(0, 1)
            if codes.shape[1] == 1
            else slice(columns[0] // group, columns[-1] // group + 1)
        )
        scales, zeros = (t if t.shape[1] == 1 else t[:, groups] for t in (scale, zero))
        wide = scales.expand(len(codes), len(columns) // group, 1)
        chosen, adjusted = compensated(
            matrix[:, part], moments, wide, zeros.expand_as(wide), bits, group
        )
        flat[:, columns] = chosen.reshape(len(codes), -1)
        extra += adjusted - start
    return flat.reshape(codes.shape), extra


def _set_bias(module: nn.Module, bias: Tensor) -> None:
    """Copy the adjusted bias into a layer, if it has one."""
    parameter = own_parameters(module).get("bias")
    if parameter is not None and bias.numel():
        with torch.no_grad():
            parameter.copy_(bias.flatten())
