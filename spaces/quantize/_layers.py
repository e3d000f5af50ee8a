"""Which weights are stored in few bits, and which of them keep more."""

import dataclasses

from torch import nn

from spaces._plan import Encoding
from spaces.quantize._grid import group_of

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
        """The weight; rows are outputs, or the entries of a table."""
        weight = getattr(self.module, self.field)
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def columns(self) -> int:
        """Values of one row."""
        return self.weight[0].numel()

    def group(self, encoding: Encoding, bits: int) -> int:
        """Return how many values share a scale; 8 bits have one scale a row."""
        if bits >= 8:
            return self.columns
        return group_of(self.columns, encoding.granularity, linear=self.weight.dim() == 2)


def layers(model: nn.Module) -> dict[str, Layer]:
    """Return linear, convolution and embedding weights by name, in the model's order, ties once.

    Transposed convolutions are left out: their outputs are not the rows of their weight.
    """
    found: dict[str, Layer] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        field = _field(module)
        if field is None or not isinstance(module._parameters.get(field), nn.Parameter):
            continue
        layer = Layer(module=module, field=field, table=isinstance(module, nn.Embedding))
        if id(layer.weight) in seen or not layer.weight.is_floating_point():
            continue
        seen.add(id(layer.weight))
        found[f"{name}.{field}" if name else field] = layer
    return found


def _field(module: nn.Module) -> str | None:
    if isinstance(module, nn.MultiheadAttention):
        return "in_proj_weight"
    plain = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
    return "weight" if isinstance(module, plain) else None


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
