"""Sparse storage: exact, and never longer than dense."""

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from objectives.exporting.sparse_tensors import packed, unpacked


def sparse(share: float, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = (100 * torch.randn(shape, generator=generator)).to(dtype)
    return values.masked_fill(torch.rand(shape, generator=generator) < share, 0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_round_trip_is_exact_and_never_longer(share: float, dtype: torch.dtype) -> None:
    tensors = {"a.weight": sparse(share, 64, 33, dtype=dtype), "b": torch.zeros(3)}
    stored = packed(tensors)
    back = unpacked(stored)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(back[name].view(torch.uint8), tensor.view(torch.uint8))
    assert len(save(stored)) <= len(save(tensors))


@pytest.mark.parametrize(
    ("share", "bits"),
    [(0.5, 32 * 0.5 + 1), (0.9, 32 * 0.1 + 0.55), (0.99, 32 * 0.01 + 0.09)],
    ids=["a bit each", "gaps of 4 bits", "gaps of 8 bits"],
)
def test_a_weight_takes_the_bits_derived_by_hand(share: float, bits: float) -> None:
    weight = sparse(share, 512, 512)
    stored = len(save(packed({"w": weight})))
    assert stored * 8 / weight.numel() == pytest.approx(bits, rel=0.06)


def test_a_negative_zero_a_long_gap_and_nan_come_back_bit_for_bit() -> None:
    tensor = torch.zeros(5000)
    tensor[0], tensor[300], tensor[4999] = -0.0, float("nan"), 7.0
    stored = packed({"w": tensor})
    assert stored["w"].numel() == 3
    assert torch.equal(unpacked(stored)["w"].view(torch.int32), tensor.view(torch.int32))


def test_small_and_scalar_tensors_stay_as_they_are() -> None:
    tensors = {"s": torch.tensor(0), "e": torch.zeros(0, 3), "t": torch.zeros(4)}
    assert packed(tensors).keys() == tensors.keys()
