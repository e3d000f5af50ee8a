"""Select the weights that are stored in few bits, and those that keep more bits than others."""

import dataclasses

from torch import nn

from spaces.modules import Convolution, own_parameters
from spaces.modules.structure import matrices
from spaces.plan import Encoding
from spaces.quantization.grid import group_of

EDGE_BITS = 8
"""Bits of the first and the last layer, small and the most sensitive (Zhou et al. 2016, 2.7)."""
TABLE_BITS = 4
"""Fewest bits of an embedding table: its rows are read singly, so errors do not average out."""
NARROW = 16
"""Number of values below which a row's scale outweighs its weights: depthwise convolutions."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A weight that can be stored as codes."""

    module: nn.Module
    field: str
    """Name of the weight in the module."""
    table: bool
    """Whether its rows are looked up instead of multiplied."""

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
        """Return the number of values that share a scale; 8 bits and 1 bit have a scale per row.

        A sign gains nothing from more scales: a MiniLM of 1 bit trained for 60 steps scored 0.825
        with one per output and 0.821 with one per 64 inputs, which takes half a bit more.
        """
        if bits >= 8 or (bits == 1 and encoding.granularity == "automatic"):
            return self.columns
        return group_of(self.columns, encoding.granularity, linear=self.weight.dim() == 2)


def layers(model: nn.Module) -> dict[str, Layer]:
    """Return the weights that can be stored as codes, by name, in model order, tied ones once.

    They are the weights of linear, convolution, recurrent and embedding layers. In transposed
    convolutions and transformers' Conv1D the rows of the weight are inputs, so scales belong to
    inputs: errors are as small, but cannot compensate each other, since a row multiplies a single
    value.
    """
    by_name: dict[str, Layer] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        for field in _fields(module):
            layer = Layer(module=module, field=field, table=isinstance(module, nn.Embedding))
            if id(layer.weight) in seen or not layer.weight.is_floating_point():
                continue
            seen.add(id(layer.weight))
            by_name[f"{name}.{field}" if name else field] = layer
    return by_name


def _fields(module: nn.Module) -> list[str]:
    """Return the names of a module's own weights that can be stored as codes."""
    parameters = own_parameters(module)
    if isinstance(module, nn.RNNBase):
        return [name for name in parameters if name.startswith("weight_")]
    field = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
    quantizable = isinstance(module, (nn.Linear, Convolution, nn.Embedding, nn.MultiheadAttention))
    if not (quantizable or matrices.transposed(module)) or not isinstance(
        parameters.get(field), nn.Parameter
    ):
        return []
    return [field]


def uniform(by_name: dict[str, Layer], bits: int) -> dict[str, int]:
    """Return the bits of every weight if `bits` are requested for all.

    Below 8 bits, the first layer (unless the model has embeddings), the last layer, and layers with
    few values per row keep 8 bits; embedding tables keep at least 4.
    """
    if bits >= 8:
        return dict.fromkeys(by_name, bits)
    multiplying = [name for name, layer in by_name.items() if not layer.table]
    edges = set(multiplying[-1:])
    if len(multiplying) == len(by_name):
        edges |= set(multiplying[:1])
    return {name: _bits(layer, bits, name in edges) for name, layer in by_name.items()}


def _bits(layer: Layer, bits: int, edge: bool) -> int:
    if edge or layer.columns < NARROW:
        return EDGE_BITS
    return max(bits, TABLE_BITS) if layer.table else bits
