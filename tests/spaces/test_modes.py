"""Differentiating in evaluation mode, which cuDNN refuses for recurrent layers."""

from collections.abc import Callable

import pytest
import torch
from _models import Made
from torch import Tensor, nn

from spaces import Encoding, Task
from spaces.modules.modes import differentiable
from spaces.quantization.allocation import widths
from spaces.techniques.prune.channels import Channels

pytestmark = pytest.mark.usefixtures("one_thread")


class Recurrent(nn.Module):
    """Reads a sequence, and has hidden neurons that can be pruned."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(8, 16, batch_first=True)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(self.layer(x)[0][:, -1]).relu())


def pruned(importance: str) -> Callable[[nn.Module, Task], object]:
    return lambda model, task: Channels(ratio=0.5, importance=importance).apply(model, task)


def allocated(model: nn.Module, task: Task) -> object:
    return widths(model, task, Encoding(mean_bits=4))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "deed", [pruned("surgery"), pruned("taylor"), allocated], ids=["trace", "taylor", "bits"]
)
def test_recurrent_layers_are_differentiated_without_cudnn(
    kind: type[nn.RNNBase], deed: Callable[[nn.Module, Task], object]
) -> None:
    task = Made(lambda: Recurrent(kind), 5, 8)
    model = task.model()
    seen: list[tuple[bool, bool]] = []

    def watch(module: nn.Module, args: object, output: tuple[Tensor, object]) -> None:
        seen.append((output[0].requires_grad, torch.backends.cudnn.enabled))

    model.layer.register_forward_hook(watch)
    before = torch.backends.cudnn.enabled
    deed(model, task)
    assert {enabled for differentiated, enabled in seen if differentiated} == {False}
    assert torch.backends.cudnn.enabled is before


def test_without_recurrent_layers_cudnn_stays() -> None:
    before = torch.backends.cudnn.enabled
    with differentiable(nn.Conv2d(3, 8, 1)):
        assert torch.backends.cudnn.enabled is before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_gradients_on_a_gpu(kind: type[nn.RNNBase]) -> None:
    model = Recurrent(kind).cuda().eval()
    with differentiable(model):
        model(torch.randn(2, 5, 8, device="cuda")).sum().backward()
    assert model.layer.weight_hh_l0.grad.isfinite().all()
