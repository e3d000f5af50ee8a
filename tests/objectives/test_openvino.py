"""OpenVINO: what it exports computes what the model does, smaller where integers are asked."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from _networks import Convolutions, Transformer, built, decibels, images, request, sentences, size
from torch import nn

from objectives import Execution, Export, Program, Target
from objectives.execution import LAYERS
from objectives.runtimes.openvino import Openvino, runtime
from spaces import Encoding, Infeasible, Task
from spaces.modules.trees import Fields, call

NO_TASK = cast(Task, None)
MIXED = frozenset({"Conv2d", "Linear"})
BESIDE_BFLOAT16 = Encoding(weight_bits=8, activation_bits=8, dtype="bfloat16")
ROOT = Path(__file__).parents[2]


class Processor:
    """Stands for openvino.Core on a processor with these abilities."""

    def __init__(self, *abilities: str) -> None:
        self.answers = {"OPTIMIZATION_CAPABILITIES": list(abilities), "FULL_DEVICE_NAME": "Some "}

    def __call__(self) -> "Processor":
        return self

    def get_property(self, device: str, name: str) -> Any:
        assert device == "CPU"
        return self.answers[name]


def deployed(export: Export) -> tuple[Program, dict[str, Any]]:
    notes = json.loads(json.dumps(Openvino().export(export)))
    place = (export.folder, export.signature, export.target)
    return Openvino().load(*place, NO_TASK, notes), notes


def test_images_come_back_as_the_model_computes_them(tmp_path: Path) -> None:
    model = built(Convolutions)
    program, notes = deployed(request(model, images(16), tmp_path, batch=4))
    with torch.no_grad():
        torch.testing.assert_close(program(images(10)), model(images(10)), rtol=0, atol=1e-4)
    assert (notes["scheme"], notes["layers"], notes["quantized_layers"]) == ("float32", 3, 0)
    assert {file.name for file in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    assert size(tmp_path) > 4 * sum(p.numel() for p in model.parameters())  # not halved to f16


def test_named_inputs_give_named_outputs(tmp_path: Path) -> None:
    model = built(Transformer)
    program, _ = deployed(request(model, sentences(16), tmp_path, batch=4))
    outputs = program(sentences(6))
    assert isinstance(outputs, Fields)
    with torch.no_grad():
        wanted = call(model, sentences(6))
    for name in ("logits", "pooled"):
        torch.testing.assert_close(outputs[name], wanted[name], rtol=0, atol=1e-4)


def test_outputs_outlive_the_next_run(tmp_path: Path) -> None:
    program, _ = deployed(request(built(Convolutions), images(16), tmp_path))
    first = program.read(program.run(program.feed([images(2)[:1]])))[0]
    kept = first.clone()
    program.run(program.feed([images(2)[1:]]))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("bits", [(8, 8), (8, 32)])
def test_integer_convolutions_stay_close_and_get_smaller(
    tmp_path: Path, bits: tuple[int, int]
) -> None:
    model, (weight, activation) = built(Convolutions), bits
    program, notes = deployed(
        request(model, images(16), tmp_path, weight_bits=weight, activation_bits=activation)
    )
    # the last layer has too few weights for an integer kernel to pay
    assert (notes["layers"], notes["quantized_layers"]) == (3, 3 if activation == 32 else 2)
    with torch.no_grad():
        assert decibels(model(images(32)), program(images(32))) > 25
    assert (tmp_path / "model.bin").stat().st_size < 2 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("bits", "layers", "quality"), [((8, 8), 6, 20), ((8, 32), 6, 35), ((4, 32), 6, 15)]
)
def test_integer_transformers_stay_close_and_get_smaller(
    tmp_path: Path, bits: tuple[int, int], layers: int, quality: float
) -> None:
    model, (weight, activation) = built(Transformer), bits
    program, notes = deployed(
        request(model, sentences(16), tmp_path, weight_bits=weight, activation_bits=activation)
    )
    assert (notes["layers"], notes["quantized_layers"]) == (6, layers)
    with torch.no_grad():
        wanted = call(model, sentences(32))["pooled"]
    assert decibels(wanted, program(sentences(32))["pooled"]) > quality
    assert (tmp_path / "model.bin").stat().st_size < 2 * sum(p.numel() for p in model.parameters())


def test_a_model_without_quantizable_layers_is_infeasible(tmp_path: Path) -> None:
    export = request(nn.ReLU().eval(), images(16), tmp_path, weight_bits=8)
    with pytest.raises(Infeasible, match="none of the 0 convolution and linear layers"):
        Openvino().export(export)


def test_quantized_activations_need_calibration(tmp_path: Path) -> None:
    export = request(built(Convolutions), images(16), tmp_path, weight_bits=8, activation_bits=8)
    with pytest.raises(ValueError, match="need calibration batches, got none"):
        Openvino().export(dataclasses.replace(export, calibration=()))


def test_half_precision_needs_a_processor_that_computes_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for half in (Encoding(dtype="bfloat16"), BESIDE_BFLOAT16):
        monkeypatch.setattr(runtime.openvino, "Core", Processor("FP32", "INT8"))
        refusal = Openvino().refuses(half, Target(), MIXED)
        assert refusal == "the CPU (Some) has no bfloat16 instructions; OpenVINO lists FP32, INT8"
        monkeypatch.setattr(runtime.openvino, "Core", Processor("FP32", "BF16", "INT8"))
        assert Openvino().refuses(half, Target(), MIXED) is None


def test_between_integer_layers_bfloat16_is_executed(tmp_path: Path) -> None:
    if reason := Openvino().refuses(BESIDE_BFLOAT16, Target(), MIXED):
        pytest.skip(reason)
    model = built(Convolutions)
    export = request(model, images(16), tmp_path, weight_bits=8, activation_bits=8)
    program, _ = deployed(dataclasses.replace(export, encoding=BESIDE_BFLOAT16))
    feed = program.feed([images(1)])
    layers = [o for o in program.operations(feed) or () if o.kind in LAYERS]
    assert {o.precision for o in layers} == {"int8", "bfloat16"}
    assert Execution.of(layers, BESIDE_BFLOAT16).shortfall() is None
    with torch.no_grad():
        assert decibels(model(images(32)), program(images(32))) > 25


def test_integers_do_not_change_the_type_of_the_rest(tmp_path: Path) -> None:
    export = request(built(Convolutions), images(16), tmp_path, weight_bits=8, activation_bits=8)
    notes = Openvino().export(dataclasses.replace(export, encoding=BESIDE_BFLOAT16))
    assert notes["dtype"] == "bfloat16"
    assert notes["quantized_layers"] == 2


def test_half_precision_is_stored_in_two_bytes_a_weight(tmp_path: Path) -> None:
    model = built(Convolutions)
    export = dataclasses.replace(
        request(model, images(16), tmp_path), encoding=Encoding(dtype="bfloat16")
    )
    assert Openvino().export(export)["dtype"] == "bfloat16"
    weights = sum(p.numel() for p in model.parameters())
    assert 2 * weights <= (tmp_path / "model.bin").stat().st_size < 3 * weights


def test_activations_are_quantized_at_run_time_only_with_vnni(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoding = Encoding(weight_bits=4, activation_bits=8)
    monkeypatch.setattr(runtime, "flags", lambda: frozenset({"avx2"}))
    assert "with VNNI only" in str(Openvino().refuses(encoding, Target(), MIXED))
    monkeypatch.setattr(runtime, "flags", lambda: frozenset({"avx2", "avx512_vnni"}))
    assert Openvino().refuses(encoding, Target(), MIXED) is None


@pytest.mark.parametrize(
    ("encoding", "device", "kinds", "reason"),
    [
        (Encoding(activation_bits=8), "cpu", MIXED, "float weights with 8-bit activations"),
        (
            Encoding(weight_bits=4, activation_bits=8),
            "cpu",
            frozenset({"Conv2d"}),
            "4-bit weights with 8-bit activations in linear layers only",
        ),
        (Encoding(), "cuda", MIXED, "run on cpu only, the target is cuda"),
    ],
)
def test_what_has_no_kernels_is_refused(
    encoding: Encoding, device: str, kinds: frozenset[str], reason: str
) -> None:
    refusal = Openvino().refuses(encoding, Target(device=device), kinds)
    assert refusal is not None
    assert reason in refusal


OFFLINE = """
import os, sys
sys.addaudithook(lambda event, _: event in ("socket.connect", "socket.getaddrinfo") and os._exit(9))
import torch
from pathlib import Path
from _networks import Convolutions, built, images, request
from objectives.runtimes.openvino import Openvino
export = request(
    built(Convolutions), images(16), Path(sys.argv[1]), weight_bits=8, activation_bits=8
)
Openvino().export(export)
Openvino().export(request(built(Convolutions), images(16), Path(sys.argv[1]), weight_bits=8))
"""


@pytest.mark.slow
def test_nothing_is_printed_or_sent(tmp_path: Path) -> None:
    home, artifact = tmp_path / "home", tmp_path / "artifact"
    home.mkdir()
    artifact.mkdir()
    names = ("CI", "TF_BUILD", "JENKINS_URL")  # where the libraries keep quiet by themselves
    environment = {k: v for k, v in os.environ.items() if k not in names}
    environment |= {"HOME": str(home), "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(artifact)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not (home / "intel").exists()


class Blocks(nn.Module):
    """Residual blocks of linear layers on vectors, which crash the compiler's subgraphs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(48, 64)
        self.ups = nn.ModuleList(nn.Linear(64, 128) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(128, 64) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1))
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(torch.relu(up(x)))
        return x


def test_residual_blocks_on_vectors_are_calibrated_or_refused(tmp_path: Path) -> None:
    model, inputs = built(Blocks), torch.randn(16, 3, 4, 4)
    asked = request(model, inputs, tmp_path, batch=8, weight_bits=8, activation_bits=8)
    refused = None
    try:
        program, _ = deployed(asked)
    except Infeasible as error:  # where this version crashes on this processor
        refused = str(error)
    if refused is None:
        with torch.no_grad():
            assert decibels(model(inputs[:8]), program(inputs[:8])) > 20
    else:
        assert "crashes on this model" in refused


def test_residual_blocks_on_vectors_compile(tmp_path: Path) -> None:
    model, inputs = built(Blocks), torch.randn(8, 3, 4, 4)
    program, _ = deployed(request(model, inputs, tmp_path, batch=8))
    with torch.no_grad():
        torch.testing.assert_close(program(inputs), model(inputs), rtol=0, atol=1e-4)
