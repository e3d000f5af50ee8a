"""Which layers tensor parallelism splits: the same whichever way around they hold their weight."""

import pytest
import torch
from _placed import SHAPES, Block, Mean, Random, Turned
from torch import nn

from objectives.placement.tensor_parallel import split
from spaces import Infeasible


@pytest.mark.parametrize("kind", [Block, Turned])
def test_heads_and_hidden_neurons_are_split(kind: type[nn.Module]) -> None:
    model = Random(kind).model()
    whole = {name: layer.weight.numel() for name, layer in model.named_children()}
    families = split(model, torch.randn(2, *SHAPES[kind]), 1, 2)
    assert [family.name for family in families] == ["qkv", "up"]
    for name in ("qkv", "out", "up", "down"):
        assert model.get_submodule(name).weight.numel() == whole[name] / 2


def test_nothing_to_split_is_infeasible() -> None:
    with pytest.raises(Infeasible, match="nothing to split"):
        split(Random(Mean).model(), torch.randn(2, *SHAPES[Mean]), 0, 2)
