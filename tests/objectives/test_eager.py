"""The eager runtime: the same outputs, the size it says, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from _runtimes import INTEGERS, ROOT, Images, Mixed, Tiny, asked, elsewhere, ship, size, truth
from torch import nn

from objectives import Target
from objectives.exporting import in_turns
from objectives.runtimes.eager import Eager
from spaces import Encoding, Infeasible

LINEAR = frozenset({"Linear", "Embedding"})


pytestmark = pytest.mark.usefixtures("same_threads")


def test_float32_is_the_model_bit_for_bit(tmp_path):
    task = Tiny(Mixed)
    program = ship(Eager(), task, tmp_path / "a", target=Target(batch_size=4))
    inputs, expected = truth(task, 4)
    outputs = program(inputs)
    assert torch.equal(outputs["logits"], expected["logits"])
    assert torch.equal(outputs.mean, expected["mean"])


def test_convolutions_are_the_model_in_either_memory_format(tmp_path):
    task = Tiny(Images)
    program = ship(Eager(), task, tmp_path / "a", target=Target(batch_size=4))
    inputs, expected = truth(task, 4)
    torch.testing.assert_close(program(inputs), expected, rtol=0, atol=1e-5)


def test_a_short_last_batch_is_filled_up_and_cut(tmp_path):
    task = Tiny(Mixed)
    program = ship(Eager(), task, tmp_path / "a", target=Target(batch_size=4))
    inputs, expected = truth(task, 7)
    outputs = program(inputs)
    assert outputs["logits"].shape == (7, 6)
    torch.testing.assert_close(outputs["logits"], expected["logits"], rtol=0, atol=1e-5)


def test_outputs_own_their_memory(tmp_path):
    program = ship(Eager(), Tiny(Mixed), tmp_path / "a")
    inputs, _ = truth(Tiny(Mixed), 1)
    feed = program.feed(list(inputs.values()))
    first = program.read(program.run(feed))
    kept = first[0].clone()
    program.read(program.run(feed))[0].zero_()
    assert torch.equal(first[0], kept)
    assert not first[0].is_inference()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_and_halves_the_weights(tmp_path, dtype):
    task, encoding = Tiny(Images), Encoding(dtype=dtype)
    assert Eager().refuses(encoding, Target(), frozenset({"Conv2d"})) is None
    program = ship(Eager(), task, tmp_path / "half", encoding)
    ship(Eager(), task, tmp_path / "full")
    inputs, expected = truth(task, 3)
    assert program(inputs).dtype == torch.float32
    torch.testing.assert_close(program(inputs), expected, rtol=0, atol=0.03)
    file = "weights.safetensors"
    half, full = ((tmp_path / kind / file).stat().st_size for kind in ("half", "full"))
    values = sum(p.numel() for p in task.model().parameters()) + 2 * 16  # and running statistics
    assert full - half == pytest.approx(2 * values, abs=64)  # the header names the types


def test_a_value_that_float16_cannot_hold_is_infeasible(tmp_path):
    export = asked(Tiny(Images), tmp_path, Encoding(dtype="float16"), Target())
    nn.init.constant_(export.model.last.weight, 1e6)
    with pytest.raises(Infeasible, match="outputs at this encoding are not finite"):
        Eager().export(export)


def test_integers_are_near_and_a_quarter_of_the_weights(tmp_path):
    if reason := Eager().refuses(INTEGERS, Target(), LINEAR):
        pytest.skip(reason)
    task = Tiny(Mixed)
    program = ship(Eager(), task, tmp_path / "whole", INTEGERS)
    ship(Eager(), task, tmp_path / "full")
    inputs, expected = truth(task, 9)
    error = (program(inputs)["logits"] - expected["logits"]).abs().max()
    # 7-bit inputs and 8-bit weights: steps of 1/127 and 1/254 of ranges below 4 and 0.25
    assert 0 < error < 0.05
    linear = 16 * 32 + 32 * 6  # weights that take 1 byte in place of 4; 38 scales take 4 each
    saved = size(tmp_path / "full") - size(tmp_path / "whole")
    assert saved == pytest.approx(3 * linear - 4 * 38, abs=200)


def test_loads_from_another_folder_in_a_fresh_process(tmp_path):
    (tmp_path / "a").mkdir()
    export = asked(Tiny(Images), tmp_path / "a", Encoding(), Target(batch_size=2))
    notes = Eager().export(export)
    assert {file.name for file in (tmp_path / "a").iterdir()} == {
        "architecture.json",
        "weights.safetensors",
    }
    shutil.move(tmp_path / "a", tmp_path / "b")
    paths = json.dumps([str(ROOT), str(Path(__file__).parent)])
    printed = elsewhere(Eager(), Images, paths, str(tmp_path / "b"), json.dumps(notes))
    assert json.loads(printed)["error"] < 1e-5
    assert json.loads(printed)["threads"] == 1


def test_export_edits_neither_model_nor_threads(tmp_path):
    export = asked(Tiny(Images), tmp_path, Encoding(dtype="bfloat16"), Target(threads=1))
    torch.set_num_threads(2)
    Eager().export(export)
    assert torch.get_num_threads() == 2
    weight = export.model.first.weight
    assert weight.dtype == torch.float32
    assert weight.is_contiguous()


def test_what_is_timed_is_in_the_format_that_is_shipped(tmp_path, monkeypatch):
    formats = []

    def medians(models, inputs):
        formats.append([m.first.weight.is_contiguous() for m in models])
        return [1.0, 2.0]  # the second is slower: the first format stays

    monkeypatch.setattr(in_turns, "medians", medians)
    notes = Eager().export(asked(Tiny(Images), tmp_path, Encoding(weight_bits=8), Target()))
    assert notes["channels_last"] is False
    assert formats == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("encoding", "kinds", "reason"),
    [
        (Encoding(activation_bits=8), LINEAR, "32-bit weights with 8-bit activations"),
        (Encoding(weight_bits=4, activation_bits=8), LINEAR, "4-bit weights"),
        (
            Encoding(weight_bits=8),
            frozenset({"ReLU"}),
            "no convolution, linear or recurrent layers",
        ),
        (INTEGERS, frozenset({"Conv2d", "Linear"}), "linear ones"),
        (Encoding(weight_bits=8, activation_bits=8, dtype="bfloat16"), LINEAR, "return float32"),
    ],
)
def test_refuses_what_has_no_kernel(encoding, kinds, reason):
    assert reason in Eager().refuses(encoding, Target(), kinds)


def test_refuses_other_devices():
    assert "asks for cuda" in Eager().refuses(Encoding(), Target(device="cuda"), LINEAR)
