"""Kernels that multiply by weights in few bits: they compute what the rounded weights would."""

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from _networks import Convolutions, Transformer, built, images, request
from torch import Tensor, nn

from objectives import Runtime, Target
from objectives.exporting import stored_modules
from objectives.kernels.low_bits import EightBitLinear, FourBitLinear, with_codes
from objectives.kernels.tensor_cores import Float8Linear, IntegerLinear, RowScaled, lacks_float8
from objectives.runtimes.eager import Eager
from objectives.runtimes.inductor import Inductor
from objectives.runtimes.null import Null
from objectives.runtimes.onnxruntime import Onnxruntime
from objectives.runtimes.openvino import Openvino
from spaces import Encoding, Infeasible, Task
from spaces.modules.trees import call
from spaces.quantization.encode import encoded


class Queue(nn.Module):
    """(batch, 6, 32) -> (batch, 5), in whatever type it has."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Linear(32, 64), nn.Linear(64, 256)
        self.down, self.last = nn.Linear(256, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.down(torch.relu(self.up(x)))
        return cast(Tensor, self.last(x.mean(1)))


class Owner:
    """The task of a model that was not edited."""

    def model(self) -> nn.Module:
        return built(Queue)


def series(count: int) -> Tensor:
    return torch.randn(count, 6, 32, generator=torch.Generator().manual_seed(1))


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return cast(str, request.param)


def rounded(bits: int, **more: Any) -> tuple[nn.Linear, Any]:
    """Return a linear layer between two others, rounded, and its codes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 256), nn.Linear(256, 192), nn.Linear(192, 4)).eval()
    model[1].weight.data += 0.02  # so that zero points are not in the middle
    whole = encoded(model, None, Encoding(weight_bits=bits, **more))
    return cast(nn.Linear, cast(nn.Sequential, whole.model)[1]), whole.codes["1.weight"]


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("bits", [4, 3, 2, 1])
@pytest.mark.parametrize("granularity", ["group", "channel"])
def test_four_bit_kernels_multiply_by_the_rounded_weight(
    device: str, bits: int, granularity: str
) -> None:
    layer, codes = rounded(bits, granularity=granularity)
    layer = layer.requires_grad_(False).to(device)
    x = torch.randn(2, 5, 256, generator=torch.Generator().manual_seed(1)).to(device)
    wanted = layer(x)
    low = layer.to(torch.bfloat16)
    dense = distance(low(x.bfloat16()), wanted)
    found = FourBitLinear(codes, low.bias, low.weight).to(device)(x.bfloat16())
    # the offset of a group is rounded as well, which a step of 3 bits and fewer must not feel
    assert distance(found, wanted) < dense + 0.006


@pytest.mark.parametrize("symmetric", [True, False])
def test_eight_bit_kernels_multiply_by_the_rounded_weight(symmetric: bool) -> None:
    layer, codes = rounded(8, symmetric=symmetric)
    layer = layer.requires_grad_(False)
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(1))
    found = EightBitLinear(codes, layer.bias, layer.weight)(x)
    assert distance(found, layer(x)) < 1e-5


def test_layers_without_a_kernel_stay_as_they_are() -> None:
    whole = encoded(built(Convolutions), None, Encoding(weight_bits=4))
    before = {name: type(m) for name, m in whole.model.named_modules()}
    count = with_codes(whole.model, whole.codes)
    changed = {n for n, m in whole.model.named_modules() if type(m) is not before.get(n)}
    assert len(changed) == count == sum(kind is nn.Linear for kind in before.values())
    book = encoded(built(Transformer), None, Encoding(cluster_bits=4))
    assert with_codes(book.model, book.codes) == 0


def test_an_artifact_with_kernels_computes_what_the_rounded_model_does(tmp_path: Path) -> None:
    runtime, bits = Eager(), {"weight_bits": 4, "dtype": "bfloat16"}
    export = request(built(Queue), series(16), tmp_path, batch=4, **bits)
    notes = json.loads(json.dumps(runtime.export(export)))

    outputs = {}
    for kernels in (False, True):
        program = runtime.load(
            tmp_path, export.signature, Target(batch_size=4), cast(Task, Owner()),
            notes | {"kernels": kernels},
        )  # fmt: skip
        outputs[kernels] = program(series(6))
        layers = [type(m).__name__ for m in cast(Any, program)._model.modules()]
        assert ("FourBitLinear" in layers) is kernels
    with torch.no_grad():
        wanted = call(encoded(export.model, None, export.encoding).model, series(6))
    assert distance(outputs[True], wanted) < 2 * distance(outputs[False], wanted) + 1e-2


def test_the_remark_says_what_was_measured(tmp_path: Path) -> None:
    notes = Eager().export(request(built(Convolutions), images(16), tmp_path, weight_bits=2))
    wording = "stay in few bits" if notes["kernels"] else "unpacked when the artifact is loaded"
    assert wording in notes["remark"]


def linear(rows: int, columns: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(columns, rows).requires_grad_(False)


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize(
    ("layer_of", "kind", "dtype"),
    [
        (Float8Linear, torch.float8_e4m3fn, torch.bfloat16),
        (IntegerLinear, torch.int8, torch.float32),
        (IntegerLinear, torch.int8, torch.bfloat16),
    ],
)
def test_eight_bit_products_are_a_few_percent_from_exact(
    device: str, layer_of: type[RowScaled], kind: torch.dtype, dtype: torch.dtype
) -> None:
    layer = linear(64, 128)
    assert layer_of.fits(layer)
    model = cast(Any, layer_of)(stored_modules.rounded(layer.weight, kind), layer.bias).to(device)
    x = torch.randn(2, 9, 128, generator=torch.Generator().manual_seed(1))
    x[0, 0] *= 1e4  # rows have scales of their own
    x[1, 1] = 0
    found = model(x.to(device, dtype)).cpu()
    wanted = linear(64, 128)(x)
    assert found.dtype is dtype
    assert distance(found, wanted) < 0.05
    assert distance(found[1, 2:], wanted[1, 2:]) < 0.05
    torch.testing.assert_close(found[1, 1].float(), layer.bias, rtol=0, atol=1e-3)
    turned = x.to(device, dtype).transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(model(turned).cpu(), found)  # however rows lie in memory


def test_a_weight_in_float8_is_stored_in_a_byte_each(tmp_path: Path) -> None:
    reference, edited = nn.Sequential(linear(64, 128)), nn.Sequential(linear(64, 128))
    stored_modules.write(tmp_path, reference, edited, ["0"], kind=torch.float8_e4m3fn)
    stored = stored_modules.read(tmp_path, nn.Sequential(linear(64, 128)))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.4 * 64 * 128
    assert stored.layers["0"].values.dtype is torch.float8_e4m3fn
    assert distance(cast(nn.Linear, stored.model[0]).weight, linear(64, 128).weight) < 0.05  # type: ignore[index]


@pytest.mark.parametrize("runtime", [Eager(), Inductor(), Onnxruntime(), Openvino(), Null()])
def test_float8_is_refused_on_a_cpu(runtime: Runtime) -> None:
    reason = runtime.refuses(Encoding(dtype="float8"), Target(), frozenset({"Linear"}))
    assert reason is not None
    assert "float8" in reason


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [Eager, Inductor])
def test_an_artifact_in_float8_agrees_with_the_model(tmp_path: Path, kind: type[Runtime]) -> None:
    if not torch.cuda.is_available() or lacks_float8():
        pytest.skip("needs a CUDA device with float8")
    runtime, target = kind(), Target(device="cuda", batch_size=4)
    assert runtime.refuses(Encoding(dtype="float8"), target, frozenset({"Conv2d"})) is not None
    export = request(built(Queue), series(16), tmp_path, batch=4, dtype="float8")
    export = dataclasses.replace(export, target=target)
    notes = json.loads(json.dumps(runtime.export(export)))

    program = runtime.load(tmp_path, export.signature, target, cast(Task, Owner()), notes)
    with torch.no_grad():
        wanted = call(built(Queue), series(6))
    assert distance(program(series(6)), wanted) < 0.1
    assert program.execution() == "CUDA graph"


def test_float8_without_a_layer_that_fits_is_infeasible(tmp_path: Path) -> None:
    class Narrow(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(10, 6))

    export = request(built(Narrow), torch.randn(4, 10), tmp_path, batch=4, dtype="float8")
    with pytest.raises(Infeasible, match="float8 tensor cores"):
        Eager().export(export)
