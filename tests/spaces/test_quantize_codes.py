"""Weights as codes: packing, grids that are found again, codebooks, rounding that makes up."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spaces import Encoding
from spaces.modules.codes import Codes, pack, planes, unpack
from spaces.quantization.encode import encoded
from spaces.quantization.gptq import compensated
from spaces.quantization.grid import fitted, group_of, nearest, recovered
from spaces.quantization.kmeans import clustered, recovered_book
from spaces.quantization.layers import layers, uniform


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def on_grid(weight: Tensor, bits: int, group: int, *, symmetric: bool = False) -> Tensor:
    """Return a weight rounded to the grid that suits it."""
    values = weight.reshape(len(weight), -1, group)
    scale, zero = fitted(values, bits, symmetric=symmetric)
    return ((nearest(values, scale, zero, bits).float() - zero) * scale).reshape(weight.shape)


@given(
    bits=st.integers(1, 8),
    values=st.lists(st.integers(0, 255), min_size=1, max_size=70),
)
@settings(max_examples=60, deadline=None)
def test_packing_is_undone_and_takes_the_bits_it_says(bits: int, values: list[int]) -> None:
    codes = torch.tensor([v % 2**bits for v in values], dtype=torch.uint8)
    parts = pack(codes, bits)
    assert torch.equal(unpack(parts, bits, len(codes)), codes)
    assert sum(planes(bits)) == bits
    assert sum(p.numel() for p in parts) <= len(codes) * bits / 8 + len(parts)


def test_the_first_code_is_in_the_lowest_bits() -> None:
    (whole,) = pack(torch.tensor([1, 2, 3, 0, 1], dtype=torch.uint8), 2)
    assert whole.tolist() == [0b00_11_10_01, 0b01]
    low, high = pack(torch.tensor([5, 2], dtype=torch.uint8), 3)
    assert (low.tolist(), high.tolist()) == ([0b10_01], [0b01])


@given(
    bits=st.sampled_from([1, 2, 3, 4, 6, 8]),
    seed=st.integers(0, 50),
    symmetric=st.booleans(),
    group=st.sampled_from([16, 48]),
)
@settings(max_examples=25, deadline=None)
def test_a_grid_is_found_again_from_values_alone(
    bits: int, seed: int, symmetric: bool, group: int
) -> None:
    weight = on_grid(random(6, 48, seed=seed), bits, group, symmetric=symmetric)
    codes = recovered(weight, bits, group)
    assert codes is not None
    assert int(codes.codes.max()) < 2**bits
    torch.testing.assert_close(codes.floats(), weight, rtol=1e-6, atol=0)


def test_what_lies_on_no_grid_is_not_taken_for_one() -> None:
    for bits in (1, 2, 4):
        assert recovered(random(4, 64), bits, 64) is None
    assert recovered(on_grid(random(4, 64), 4, 64), 3, 64) is None


def test_zero_rows_and_unused_codes_are_no_obstacle() -> None:
    weight = torch.tensor([[0.0] * 4, [0.0, 0.2, 0.5, -0.2], [0.3, 0.3, 0.3, 0.3]])
    codes = recovered(weight, 4, 4)
    assert codes is not None
    torch.testing.assert_close(codes.floats(), weight, rtol=1e-6, atol=0)


def test_zeros_of_a_pruned_weight_stay_zeros_at_every_width() -> None:
    weight = torch.where(random(8, 64).abs() > 0.7, random(8, 64), 0.0)
    for encoding in (*(Encoding(weight_bits=b) for b in (4, 3, 2, 1)), Encoding(cluster_bits=3)):
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(64, 8), nn.Linear(8, 2))
        model[1].weight.data = weight.clone()
        after = encoded(model, None, encoding).model[1].weight  # type: ignore[index]
        assert bool((after[weight == 0] == 0).all())
        assert bool((after != 0).any())


def test_few_bits_cut_outliers_off() -> None:
    values = random(1, 1, 1024)
    scale, zero = fitted(values, 2, symmetric=False)
    assert float(scale) < 0.6 * float(values.amax() - values.amin()) / 3
    assert float(zero) == round(float(zero))


def test_binary_weights_are_a_sign_and_the_mean_magnitude() -> None:
    values = random(3, 1, 32)
    scale, zero = fitted(values, 1, symmetric=True)
    grid = (nearest(values, scale, zero, 1).float() - zero) * scale
    torch.testing.assert_close(grid, values.sign() * values.abs().mean(-1, keepdim=True))


def test_compensated_rounding_keeps_outputs_better_than_the_nearest() -> None:
    inputs = random(500, 32) @ random(32, 32, seed=1)
    weight = random(16, 32, seed=2)
    moments = (inputs.T @ inputs / len(inputs)).double()
    scale, zero = fitted(weight[:, None], 3, symmetric=False)
    near = nearest(weight[:, None], scale, zero, 3)
    codes, rest = compensated(weight, moments, scale, zero, 3, 32)
    assert rest.shape == (16, 0)
    wanted = inputs @ weight.T

    def error(chosen: Tensor) -> float:
        grid = ((chosen.float() - zero) * scale)[:, 0]
        return float((inputs @ grid.T - wanted).square().mean())

    assert error(codes) < 0.6 * error(near)


def test_centres_are_as_near_as_those_of_a_known_mixture() -> None:
    centres = torch.tensor([-1.0, 0.25, 2.0, 3.0])
    weight = centres[torch.arange(64) % 4].reshape(8, 8) + 0.01 * random(8, 8)
    codes = clustered(weight, 2)
    assert codes.book is not None
    torch.testing.assert_close(codes.book, centres, rtol=0, atol=0.02)
    again = recovered_book(codes.floats(), 2)
    assert again is not None
    assert torch.equal(again.floats(), codes.floats())
    assert recovered_book(weight, 2) is None


def test_rows_that_are_rescaled_keep_their_codes() -> None:
    codes = recovered(on_grid(random(4, 16), 3, 16), 3, 16)
    assert isinstance(codes, Codes)
    factor = torch.tensor([1.0, -2.0, 0.5, 3.0])
    scaled = codes.rescaled(factor)
    torch.testing.assert_close(scaled.floats(), codes.floats() * factor[:, None])
    assert torch.equal(scaled.codes, codes.codes)


def test_first_and_last_layers_keep_eight_bits_and_tables_four() -> None:
    convolutions = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 8, 1), nn.Linear(8, 2)
    )
    assert list(uniform(layers(convolutions), 2).values()) == [8, 8, 2, 8]
    words = nn.Sequential(nn.Embedding(9, 64), nn.Linear(64, 64), nn.Linear(64, 2))
    assert list(uniform(layers(words), 2).values()) == [4, 2, 8]
    assert set(uniform(layers(words), 8).values()) == {8}


def test_tied_weights_are_encoded_once() -> None:
    model = nn.Sequential(nn.Embedding(16, 64), nn.Linear(64, 64), nn.Linear(64, 16, bias=False))
    model[2].weight = model[0].weight
    after = encoded(model, None, Encoding(weight_bits=2))
    assert list(after.codes) == ["0.weight", "1.weight"]
    assert after.model[2].weight is after.model[0].weight  # type: ignore[index]


@pytest.mark.parametrize(
    ("columns", "granularity", "linear", "group"),
    [
        (768, "automatic", True, 64),
        (768, "channel", True, 768),
        (144, "automatic", False, 144),
        (144, "group", False, 16),
        (27, "group", False, 27),
    ],
)
def test_groups_divide_a_row(columns: int, granularity: str, linear: bool, group: int) -> None:
    assert group_of(columns, granularity, linear=linear) == group


def test_two_ways_to_store_a_weight_exclude_each_other() -> None:
    both = dataclasses.replace(Encoding(), weight_bits=4, mean_bits=3.0)
    assert both.clash is not None
    assert "quantize.integer weight_bits = 4 and quantize.mixed mean_bits = 3 are two" in both.clash
    assert Encoding(weight_bits=4, activation_bits=8, coding="lzma").clash is None
