"""Training weights that share a few values: what is trained is the codebook."""

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
    """Every weight of a layer is one of 2 ** bits values, which are trained; zeros stay zeros.

    The gradient of a value is the sum over the weights that share it. Values are held times the
    square root of the number of their weights, so that a step moves the weights as far as an
    untied step on average would. Source: Han et al. 2016, Deep Compression, section 3.
    """

    bits: int

    @contextlib.contextmanager
    def hold(self, model: nn.Module, task: Task) -> Iterator[Project]:
        """Tie the weights of `model` until the context ends."""
        held: list[Layer] = []
        for layer in layers(model).values():
            book = _Book(layer.weight, self.bits)
            parametrize.register_parametrization(layer.module, layer.field, book)
            held.append(layer)
        try:
            yield _nothing
        finally:
            for layer in held:
                parametrize.remove_parametrizations(layer.module, layer.field)
        batchnorm_statistics.reestimate(model, task)


def _nothing() -> None:
    """Do nothing after a step: weights are made of their book in every pass."""


class _Book(nn.Module):
    """weight -> the values of its book; the weight itself only says where zeros are."""

    root: Tensor
    codes: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        made = clustered(weight, bits)
        assert made.book is not None
        codes = made.codes.long().flatten()
        counts = torch.bincount(codes, minlength=len(made.book)).clamp(min=1)
        self.register_buffer("root", counts.sqrt().float())
        self.register_buffer("codes", codes)
        self.held = nn.Parameter(made.book * self.root)
        self.sparse = pruned(weight)

    def forward(self, weight: Tensor) -> Tensor:
        book = self.held / self.root
        if self.sparse:  # the first value stands for the zeros
            book = torch.cat([book[:1].detach() * 0, book[1:]])
        return book.index_select(0, self.codes).reshape(weight.shape)
