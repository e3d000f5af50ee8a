"""The inductor runtime: packages that travel, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from _runtimes import INTEGERS, ROOT, Images, Mixed, Tiny, asked, elsewhere, ship, truth
from torch import Tensor, nn

from objectives import Execution, Runtime, Target
from objectives.runtimes.eager import Eager
from objectives.runtimes.inductor import Inductor
from spaces import Encoding, Infeasible
from spaces.modules import flatten

KINDS = frozenset({"Linear", "Conv2d"})


pytestmark = pytest.mark.usefixtures("same_threads")


def _needs(encoding: Encoding) -> None:
    if reason := Inductor().refuses(encoding, Target(), KINDS):
        pytest.skip(reason)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(12, 6)

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((1, 2))
        return self.last(means) if bool(means.sum() > 0) else means


@pytest.mark.slow
def test_float32_is_the_model_also_in_another_folder_and_process(tmp_path):
    _needs(Encoding())
    (tmp_path / "a").mkdir()
    export = asked(Tiny(Images), tmp_path / "a", Encoding(), Target(batch_size=2))
    torch.set_num_threads(2)
    notes = Inductor().export(export)
    assert torch.get_num_threads() == 2
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["model.pt2"]
    shutil.move(tmp_path / "a", tmp_path / "b")
    paths = json.dumps([str(ROOT), str(Path(__file__).parent)])
    printed = elsewhere(Inductor(), Images, paths, str(tmp_path / "b"), json.dumps(notes))
    assert json.loads(printed)["error"] < 1e-4  # 5 samples in batches of 2
    assert json.loads(printed)["threads"] == 1


@pytest.mark.slow
def test_named_inputs_and_outputs(tmp_path):
    _needs(Encoding())
    task = Tiny(Mixed)
    program = ship(Inductor(), task, tmp_path / "a")
    inputs, expected = truth(task, 3)
    outputs = program({"a": inputs["a"], "b": inputs["b"]})
    torch.testing.assert_close(outputs["logits"], expected["logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(outputs.mean, expected["mean"], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(tmp_path, dtype):
    _needs(Encoding(dtype=dtype))
    task = Tiny(Images)
    program = ship(Inductor(), task, tmp_path / "a", Encoding(dtype=dtype))
    inputs, expected = truth(task, 3)
    assert program(inputs).dtype == torch.float32
    torch.testing.assert_close(program(inputs), expected, rtol=0, atol=0.03)


@pytest.mark.slow
def test_integers_are_near(tmp_path):
    _needs(INTEGERS)
    task = Tiny(Images)
    program = ship(Inductor(), task, tmp_path / "a", INTEGERS)
    inputs, expected = truth(task, 9)
    error = (program(inputs) - expected).abs().max()
    assert 0 < error < 0.05 * expected.abs().max()


def test_a_branch_on_data_is_infeasible(tmp_path):
    _needs(Encoding())
    export = asked(Tiny(Branching), tmp_path, Encoding(), Target(batch_size=2))
    with pytest.raises(Infeasible, match=r"torch\.export cannot trace the model: .*data-dependent"):
        Inductor().export(export)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        (Encoding(weight_bits=8), "8-bit weights with 32-bit activations"),
        (Encoding(activation_bits=8), "32-bit weights with 8-bit activations"),
        (Encoding(weight_bits=4, activation_bits=8), "4-bit weights"),
        (Encoding(weight_bits=8, activation_bits=8, dtype="bfloat16"), "not bfloat16"),
    ],
)
def test_refuses_what_has_no_kernel(encoding, reason):
    _needs(Encoding())
    assert reason in Inductor().refuses(encoding, Target(), KINDS)


def test_refuses_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "needs a C++ compiler" in Inductor().refuses(Encoding(), Target(), KINDS)


def test_refuses_other_devices():
    assert "asks for cuda" in Inductor().refuses(Encoding(), Target(device="cuda"), KINDS)


@pytest.mark.parametrize("kind", [Eager, Inductor])
def test_a_processor_refuses_what_only_gpus_compute(kind: type[Runtime]) -> None:
    reason = kind().lacks_kernels(Encoding(dtype="tf32"), Target(), KINDS)
    assert reason == "PyTorch multiplies in tf32 on GPUs only."


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [Eager, Inductor])
def test_a_gpu_rounds_to_tf32_and_only_then(tmp_path: Path, kind: type[Runtime]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    task, target = Tiny(Images), Target(device="cuda", batch_size=2)
    inputs, expected = truth(task, 2)
    before = torch.get_float32_matmul_precision()
    errors = {}
    for dtype in ("float32", "tf32"):
        program = ship(kind(), task, tmp_path / dtype, Encoding(dtype=dtype), target)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            errors[dtype] = float((program(inputs) - expected).abs().max())
    assert torch.get_float32_matmul_precision() == before
    assert errors["float32"] < 1e-5 < errors["tf32"] < 1e-1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_takes_images_with_channels_in_any_order(tmp_path: Path, dtype: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    task, target = Tiny(Images), Target(device="cuda", batch_size=2)
    inputs, expected = truth(task, 2)
    program = ship(Inductor(), task, tmp_path / "a", Encoding(dtype=dtype), target)
    tolerance = 1e-3 if dtype == "float32" else 5e-2
    for order in (torch.contiguous_format, torch.channels_last):
        outputs = program(inputs.contiguous(memory_format=order))
        torch.testing.assert_close(outputs, expected, rtol=0, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [Eager, Inductor])
def test_a_gpu_says_what_it_executes(tmp_path: Path, kind: type[Runtime]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    encoding, target = Encoding(dtype="bfloat16"), Target(device="cuda", batch_size=2)
    task = Tiny(Images)
    with ship(kind(), task, tmp_path / "artifact", encoding, target) as program:
        example = flatten(truth(task, 2)[0])[0]
        operations = program.operations(program.feed(example))
    if operations is None and kind is Inductor:
        pytest.skip("PyTorch's profiler sees no kernels on this host")
    assert operations is not None
    execution = Execution.of(operations, encoding)
    assert execution.parts or all(o.seconds is None for o in operations)
    # a package's kernels are known by their names alone, of which some do not tell the type
    assert execution.share == 1.0 or (kind is Inductor and not execution.never)
