"""Edited models travel as plain data, and come back bit-equal."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spaces.modules.pruned_attention import PrunedAttention
from spaces.modules.surgery import describe, load, rebuild, save, tensors, zeros


class Net(nn.Module):
    """Two tied layers, a loose parameter, and buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 8)
        self.tied = nn.Linear(8, 16, bias=False)
        self.tied.weight = self.a.weight
        self.norm = nn.LayerNorm(16)
        self.scale = nn.Parameter(torch.ones(16))
        self.register_buffer("mask", torch.ones(16), persistent=False)
        self.register_buffer("table", torch.arange(1000.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.a(x) + self.tied(x)) * self.scale * self.mask
        return self.b(y) * self.heads + self.table[0]


def fresh() -> Net:
    torch.manual_seed(0)
    return Net()


def narrow() -> Net:
    """Return the net with 12 of 16 hidden channels, as a technique would leave it."""
    net = fresh()
    kept = torch.arange(16)[:12]
    weight = nn.Parameter(net.a.weight.detach()[kept] * 1.5)
    net.a.weight = net.tied.weight = weight
    net.a.bias = nn.Parameter(net.a.bias.detach()[kept])
    net.b.weight = nn.Parameter(net.b.weight.detach()[:, kept])  # a view that is not contiguous
    net.norm.weight, net.norm.bias = nn.Parameter(torch.ones(12)), nn.Parameter(torch.zeros(12))
    net.scale = nn.Parameter(net.scale.detach()[kept])
    net.mask = net.mask[kept]
    net.a.out_features = net.tied.out_features = net.b.in_features = 12
    net.norm.normalized_shape = (12,)
    net.heads = 3
    return net


def test_description_holds_what_differs_and_nothing_else() -> None:
    description = describe(fresh(), narrow())
    assert json.loads(json.dumps(description)) == {
        "format": 1,
        "classes": {},
        "attributes": {
            "": {"heads": 3},
            "a": {"out_features": 12},
            "b": {"in_features": 12},
            "tied": {"out_features": 12},
            "norm": {"normalized_shape": [12]},
        },
        "shapes": {
            "a.weight": [12, 8],
            "a.bias": [12],
            "b.weight": [8, 12],
            "tied.weight": [12, 8],
            "norm.weight": [12],
            "norm.bias": [12],
            "scale": [12],
            "mask": [12],
        },
    }


def test_an_unedited_model_has_an_empty_description() -> None:
    description = describe(fresh(), fresh().eval())
    assert description == {"format": 1, "classes": {}, "attributes": {}, "shapes": {}}


def test_tied_tensors_are_saved_once_and_unchanged_transient_buffers_never() -> None:
    held = tensors(fresh(), narrow())
    assert set(held) == {
        *("a.weight", "a.bias", "b.weight", "b.bias", "norm.weight", "norm.bias", "scale", "mask")
    }
    assert all(t.is_contiguous() for t in held.values())


def test_reload_is_bit_equal_small_and_tied(tmp_path: Path) -> None:
    net, x = narrow().eval(), torch.randn(4, 8)
    save(tmp_path, fresh(), net)
    again = load(tmp_path, fresh()).eval()
    assert torch.equal(again(x), net(x))
    assert isinstance(again, Net)
    assert again.a.weight is again.tied.weight
    assert again.norm.normalized_shape == (12,)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "architecture.json",
        "weights.safetensors",
    ]
    floats = 12 * 8 + 12 + 8 * 12 + 8 + 4 * 12
    assert floats * 4 < (tmp_path / "weights.safetensors").stat().st_size < floats * 4 + 1000


def test_types_travel_with_the_values() -> None:
    net = fresh().bfloat16()
    again = rebuild(fresh(), describe(fresh(), net), tensors(fresh(), net))
    assert again.a.weight.dtype is torch.bfloat16


def test_a_replaced_attention_travels(tmp_path: Path) -> None:
    reference = nn.Sequential(nn.MultiheadAttention(16, 2))
    net = copy.deepcopy(reference)
    net[0].__class__ = PrunedAttention
    save(tmp_path, reference, net)
    assert type(load(tmp_path, copy.deepcopy(reference))[0]) is PrunedAttention


def test_missing_unknown_and_misshapen_tensors_are_refused() -> None:
    description, held = describe(fresh(), narrow()), tensors(fresh(), narrow())
    with pytest.raises(ValueError, match=r"no values for tensors \['b.bias'\]"):
        rebuild(fresh(), description, {k: v for k, v in held.items() if k != "b.bias"})
    with pytest.raises(ValueError, match=r"the reference has no tensors \['extra'\]"):
        rebuild(fresh(), description, {**held, "extra": torch.ones(1)})
    with pytest.raises(ValueError, match=r"'scale' has shape \[16\], expected \[12\]"):
        rebuild(fresh(), description, {**held, "scale": torch.ones(16)})
    with pytest.raises(ValueError, match=r"the reference has no modules \['c'\]"):
        rebuild(fresh(), {**description, "attributes": {"c": {"x": 1}}}, held)
    with pytest.raises(ValueError, match="unknown class 'Evil'"):
        rebuild(fresh(), {**description, "classes": {"a": "Evil"}}, held)
    with pytest.raises(ValueError, match="unknown format 2, expected 1"):
        rebuild(fresh(), {**description, "format": 2}, held)


def test_what_cannot_be_described_is_refused() -> None:
    net = fresh()
    net.b = nn.Sequential(nn.Linear(16, 8))  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"the modules differ .* with \['b.0'\]"):
        describe(fresh(), net)
    net = fresh()
    net.norm = nn.RMSNorm(16)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"the tensors differ .* without \['norm.bias'\]"):
        describe(fresh(), net)
    net = fresh()
    net.b = nn.Bilinear(1, 1, 1)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="'b' became a Bilinear"):
        describe(fresh(), net)


def test_zeros_are_counted_so_that_a_smaller_model_has_no_more_of_them() -> None:
    whole, part = (
        nn.Sequential(nn.Embedding(4, 6, padding_idx=0), nn.Linear(6, n)) for n in (9, 2)
    )
    assert zeros(whole) == zeros(part) == 6
    nn.init.zeros_(part[1].bias)
    assert zeros(part) == 8
