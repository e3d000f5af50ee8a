"""XLA: what it exports computes what the model does, from a StableHLO module and its weights."""

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from _networks import Convolutions, Transformer, built, images, request, sentences
from _runtimes import Images, Tiny, asked, elsewhere
from safetensors.torch import load_file
from torch import nn

from objectives import Export, Program, Target
from objectives.artifacts import identity, write
from spaces import Encoding, Infeasible, Task
from spaces.devices.cpu import Cpu
from spaces.modules import call

xla = pytest.importorskip("objectives.runtimes.xla", reason="needs the extra [xla]")
optimized = pytest.importorskip("objectives.runtimes.xla.optimized")
Xla = xla.Xla
NO_TASK = cast(Task, None)
MIXED = frozenset({"Conv2d", "Linear"})


def deployed(export: Export, **changed: Any) -> Program:
    notes = json.loads(json.dumps(Xla().export(export))) | changed
    return Xla().load(export.folder, export.signature, export.target, NO_TASK, notes)


@pytest.mark.parametrize("constant", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_named_integers_come_back_as_named_outputs(tmp_path: Path, constant: bool) -> None:
    model = built(Transformer)
    program = deployed(request(model, sentences(16), tmp_path, batch=4), constant_weights=constant)
    outputs = program(sentences(6))
    with torch.no_grad():
        wanted = call(model, sentences(6))
    for name in ("logits", "pooled"):
        torch.testing.assert_close(outputs[name], wanted[name], rtol=0, atol=1e-4)
    stored = load_file(tmp_path / "weights.safetensors")
    # linear layers are stored as they are read, the rest under the model's own names
    assert torch.equal(stored["embedding.weight"], model.get_parameter("embedding.weight"))
    assert sum(t.numel() for t in stored.values()) <= sum(p.numel() for p in model.parameters())


@pytest.mark.slow
def test_outputs_outlive_the_next_run(tmp_path: Path) -> None:
    program = deployed(request(built(Convolutions), images(16), tmp_path))
    first = program.read(program.run(program.feed([images(2)[:1]])))[0]
    kept = first.clone()
    program.run(program.feed([images(2)[1:]]))
    assert torch.equal(first, kept)


@pytest.mark.slow
def test_a_fresh_process_loads_it_from_another_folder(tmp_path: Path) -> None:
    export = asked(Tiny(Images), tmp_path, Encoding(), Target(batch_size=2))
    notes = Xla().export(export)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    paths = json.dumps([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    printed = json.loads(elsewhere(Xla(), Images, paths, str(moved), json.dumps(notes)))
    assert printed["error"] < 1e-4


@pytest.mark.slow
def test_what_is_exported_twice_is_the_same(tmp_path: Path) -> None:
    manifests = [
        write(folder, "xla", Xla(), request(built(Convolutions), images(16), folder), {"count": 1})
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    assert identity(manifests[0]) == identity(manifests[1])


class Tied(nn.Module):
    """Layers that share a weight, read as it is and transposed, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.table(x).sum(1) * torch.arange(32)
        return cast(torch.Tensor, self.head(hidden) + self.head(2 * hidden))


@pytest.mark.slow
def test_shared_weights_are_stored_once_for_each_order(tmp_path: Path) -> None:
    model, inputs = built(Tied), torch.randint(0, 50, (4, 7))
    program = deployed(request(model, inputs, tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(program(inputs), model(inputs), rtol=1e-4, atol=1e-3)
    stored = load_file(tmp_path / "weights.safetensors")
    assert sum(t.numel() for t in stored.values()) <= 2 * 50 * 32 + 32
    with pytest.raises(ValueError, match="32-bit integers, got inputs 0 to 4294967296"):
        program(torch.tensor([[0, 2**32, 0, 0, 0, 0, 0]]))


class Airy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.airy_ai(x)


@pytest.mark.slow
def test_an_operator_that_torchax_lacks_is_named(tmp_path: Path) -> None:
    export = request(Airy().eval(), images(16), tmp_path)
    with pytest.raises(Infeasible, match=r"no JAX function for the operator aten\.special_airy_ai"):
        Xla().export(export)


@pytest.mark.parametrize(
    ("encoding", "device", "reason"),
    [
        (Encoding(weight_bits=8, activation_bits=8), "cpu", "has floating-point layers only"),
        (Encoding(weight_bits=8), "cpu", "has floating-point layers only"),
        (Encoding(dtype="float16"), "cpu", "computes in float32 and bfloat16, not in float16"),
        (Encoding(), "cuda", "run on cpu only, the target is cuda"),
    ],
)
def test_what_has_no_kernels_is_refused(encoding: Encoding, device: str, reason: str) -> None:
    assert reason in str(Xla().refuses(encoding, Target(device=device), MIXED))


def test_bfloat16_is_for_processors_that_multiply_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    half = Encoding(dtype="bfloat16")
    monkeypatch.setattr(Cpu, "native_bfloat16", lambda self: False)
    assert "multiplies bfloat16 in float32" in str(Xla().refuses(half, Target(), MIXED))
    monkeypatch.setattr(Cpu, "native_bfloat16", lambda self: True)
    assert Xla().refuses(half, Target(), MIXED) is None


@pytest.mark.slow
def test_bfloat16_is_stored_in_two_bytes_and_stays_close(tmp_path: Path) -> None:
    model = built(Convolutions)
    export = dataclasses.replace(
        request(model, images(16), tmp_path), encoding=Encoding(dtype="bfloat16")
    )
    program = deployed(export)
    with torch.no_grad():
        torch.testing.assert_close(program(images(4)), model(images(4)), rtol=0, atol=0.05)
    weights = sum(p.numel() for p in model.parameters())
    assert 2 * weights <= (tmp_path / "weights.safetensors").stat().st_size < 3 * weights


def test_products_are_read_from_the_optimised_program() -> None:
    text = """
  %x = f32[1,8,8,16]{3,2,1,0} parameter(0)
  %k = f32[3,3,4,32]{3,2,1,0} constant({...})
  %c = f32[1,8,8,32]{3,2,1,0} convolution(%x, %k), window={size=3x3}, dim_labels=b01f_01io->b01f
  %a = bf16[4,16,8]{2,1,0} parameter(1)
  ROOT %d = f32[4,16,16]{2,1,0} dot(%a, %a), lhs_batch_dims={0}, lhs_contracting_dims={2}
"""
    first, second = optimized.products(text)
    assert (first.kind, first.precision, first.multiply_adds) == (
        "convolution",
        "float32",
        64 * 32 * 9 * 4,
    )
    assert (second.kind, second.precision, second.multiply_adds) == (
        "product of activations",
        "bfloat16",
        4 * 16 * 16 * 8,
    )
