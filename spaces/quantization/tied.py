"""Train the codebooks of weights that share a few values."""

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaces.constraint import Constraint, Project
from spaces.modules import batchnorm_statistics
from spaces.quantization.grid import pruned
from spaces.quantization.kmeans import clustered
from spaces.quantization.layers import Layer, layers
from spaces.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tied(Constraint):
    """Every weight of a layer is one of 2 ** bits values, which are trained; zeros stay zero.

    The gradient of a value is the sum over the weights that share it. Values are stored multiplied
    by the square root of the number of their weights, so that a step moves weights as far as it
    would move untied weights on average. Source: Han et al. 2016, Deep Compression, section 3.
    """

    bits: int

    @contextlib.contextmanager
    def hold(self, model: nn.Module, task: Task) -> Iterator[Project]:
        """Tie the weights of `model` until the context ends."""
        parametrized: list[Layer] = []
        for layer in layers(model).values():
            book = _Book(layer.weight, self.bits)
            parametrize.register_parametrization(layer.module, layer.field, book)
            parametrized.append(layer)
        try:
            yield _no_projection
        finally:
            for layer in parametrized:
                parametrize.remove_parametrizations(layer.module, layer.field)
        batchnorm_statistics.reestimate(model, task)


def _no_projection() -> None:
    """Do nothing after a step, since every pass computes the weights from the codebook."""


class _Book(nn.Module):
    """weight -> the values of its codebook; of the weight itself, only the shape is used."""

    root: Tensor
    codes: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        clusters = clustered(weight, bits)
        assert clusters.book is not None
        codes = clusters.codes.long().flatten()
        counts = torch.bincount(codes, minlength=len(clusters.book)).clamp(min=1)
        self.register_buffer("root", counts.sqrt().float())
        self.register_buffer("codes", codes)
        self.scaled = nn.Parameter(clusters.book * self.root)
        self.sparse = pruned(weight)

    def forward(self, weight: Tensor) -> Tensor:
        book = self.scaled / self.root
        if self.sparse:  # the first value stands for the zeros
            book = torch.cat([book[:1].detach() * 0, book[1:]])
        return book.index_select(0, self.codes).reshape(weight.shape)
