"""What the count of operations promises: every product counts, whichever kernel computes it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.modules import Operations, counted


class Attention(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


LAYER = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
LSTM = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True)


@pytest.mark.parametrize(
    ("model", "shape", "multiply_adds"),
    [
        (nn.Linear(5, 7), (2, 5), 2 * 5 * 7),
        (nn.Conv2d(3, 8, 3), (1, 3, 8, 8), 27 * 8 * 36),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)), (1, 4), 16),
        (Attention(), (1, 2, 4, 8), 2 * (2 * 4 * 4 * 8)),
        (LAYER, (1, 4, 8), 4 * (8 * 24 + 8 * 8 + 2 * 8 * 16) + 2 * 4 * 4 * 8),
        (LSTM, (3, 5, 6), 3 * 5 * 2 * (32 * (6 + 8) + 32 * (16 + 8))),
        (nn.GRU(6, 8), (5, 3, 6), 3 * 5 * 24 * (6 + 8)),
    ],
)
def test_operations_are_twice_the_multiply_adds(
    model: nn.Module, shape: tuple[int, ...], multiply_adds: int
) -> None:
    inputs = torch.randn(shape)
    with torch.inference_mode():
        outputs, operations = counted(lambda: model.eval()(inputs))
        expected = model(inputs)
    assert operations == Operations(count=2 * multiply_adds)
    first = [t[0] if isinstance(t, tuple) else t for t in (outputs, expected)]
    assert torch.allclose(*first, atol=1e-5)


def test_products_without_a_formula_are_named() -> None:
    model = nn.Bilinear(4, 4, 4)
    _, operations = counted(lambda: model(torch.ones(1, 4), torch.ones(1, 4)))
    assert operations.uncounted == ("aten::_trilinear",)


def test_operators_of_others_are_named() -> None:
    @torch.library.custom_op("house::double", mutates_args=())
    def double(values: Tensor) -> Tensor:
        return 2 * values

    _, operations = counted(lambda: double(torch.ones(2)))
    assert operations.uncounted == ("house::double",)
