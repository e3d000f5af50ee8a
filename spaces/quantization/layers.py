"""Which weights are stored in few bits, and which of them keep more."""

import dataclasses

from torch import nn

from spaces.modules import Convolution, own_parameters
from spaces.modules.structure import matrices
from spaces.plan import Encoding
from spaces.quantization.grid import group_of

EDGE_BITS = 8
"""Bits of the first and the last layer: they hold little and cost most (Zhou et al. 2016, 2.7)."""
TABLE_BITS = 4
"""Least bits of an embedding table: its rows are read one at a time, so errors do not average."""
NARROW = 16
"""Values of a row below which its scale outweighs its weights: depthwise convolutions."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A weight that codes can stand for."""

    module: nn.Module
    field: str
    """Name of the weight in the module."""
    table: bool
    """Whether its rows are looked up rather than multiplied."""

    @property
    def weight(self) -> nn.Parameter:
        """The weight; rows are outputs, entries of a table, or inputs (see `layers`)."""
        weight = getattr(self.module, self.field)
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def columns(self) -> int:
        """Values of one row."""
        return self.weight[0].numel()

    def group(self, encoding: Encoding, bits: int) -> int:
        """Return how many values share a scale; 8 bits have one scale a row, and so has 1 bit.

        A sign gains nothing from more scales: a MiniLM of 1 bit trained for 60 steps scored 0.825
        with one for each output and 0.821 with one for 64 inputs, which takes half a bit more.
        """
        if bits >= 8 or (bits == 1 and encoding.granularity == "automatic"):
            return self.columns
        return group_of(self.columns, encoding.granularity, linear=self.weight.dim() == 2)


def layers(model: nn.Module) -> dict[str, Layer]:
    """Return the weights that codes can stand for by name, in the model's order, ties once.

    They are those of linear, convolution, recurrent and embedding layers. In transposed
    convolutions and transformers' Conv1D the rows of the weight are inputs, which then have the
    scales: errors are as small, but nothing makes up for them, for what a row multiplies is a
    single value.
    """
    found: dict[str, Layer] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        for field in _fields(module):
            layer = Layer(module=module, field=field, table=isinstance(module, nn.Embedding))
            if id(layer.weight) in seen or not layer.weight.is_floating_point():
                continue
            seen.add(id(layer.weight))
            found[f"{name}.{field}" if name else field] = layer
    return found


def _fields(module: nn.Module) -> list[str]:
    """Return the names of a module's own weights that codes can stand for."""
    own = own_parameters(module)
    if isinstance(module, nn.RNNBase):
        return [name for name in own if name.startswith("weight_")]
    field = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
    known = isinstance(module, (nn.Linear, Convolution, nn.Embedding, nn.MultiheadAttention))
    if not (known or matrices.transposed(module)) or not isinstance(own.get(field), nn.Parameter):
        return []
    return [field]


def uniform(found: dict[str, Layer], bits: int) -> dict[str, int]:
    """Return the bits of every weight when `bits` are asked for.

    Below 8, the first layer (unless the model starts with an embedding), the last, and those
    with few values a row keep 8; tables keep at least 4.
    """
    if bits >= 8:
        return dict.fromkeys(found, bits)
    multiplying = [name for name, layer in found.items() if not layer.table]
    edges = set(multiplying[-1:])
    if len(multiplying) == len(found):
        edges |= set(multiplying[:1])
    return {name: _bits(layer, bits, name in edges) for name, layer in found.items()}


def _bits(layer: Layer, bits: int, edge: bool) -> int:
    if edge or layer.columns < NARROW:
        return EDGE_BITS
    return max(bits, TABLE_BITS) if layer.table else bits
