"""2:4 kernels: which layers qualify, and on a GPU that they compute the same."""

import copy

import pytest
import torch
from torch import nn

from objectives.kernels.semi_structured import (
    lacks_semi_structured,
    two_of_four,
    with_semi_structured,
)


def halved(rows: int, columns: int) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(columns, rows)
    with torch.no_grad():
        layer.weight.view(-1, 4)[:, ::2] = 0
    return layer


def test_the_pattern_is_recognised() -> None:
    assert two_of_four(halved(8, 16).weight)
    assert not two_of_four(nn.Linear(16, 8).weight)
    assert not two_of_four(torch.zeros(8, 6))


def test_without_a_gpu_layers_stay_and_the_reason_is_given() -> None:
    model = nn.Sequential(halved(64, 64))
    assert with_semi_structured(model) == 0
    assert "CUDA devices only" in str(lacks_semi_structured(torch.device("cpu"), torch.float16))


@pytest.mark.gpu
def test_sparse_layers_compute_what_dense_ones_do() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if reason := lacks_semi_structured(torch.device("cuda"), torch.float16):
        pytest.skip(reason)
    model = nn.Sequential(halved(256, 128), nn.ReLU(), nn.Linear(256, 64)).half().cuda().eval()
    sparse = copy.deepcopy(model).requires_grad_(False)
    assert with_semi_structured(sparse) == 1
    x = torch.randn(32, 128, dtype=torch.float16, device="cuda")
    with torch.inference_mode():
        assert torch.allclose(sparse(x), model(x), atol=2e-2, rtol=1e-2)
