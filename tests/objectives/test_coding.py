"""Coded files: the same when decoded, smaller where there is something to gain, and checked."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from _networks import Convolutions, built, images, request
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from objectives import Program
from objectives.artifacts import Altered, load, write
from objectives.exporting.codes import layout
from objectives.exporting.lzma_files import (
    Undecodable,
    compress,
    compress_files,
    decompress,
    decompressed_files,
)
from objectives.metrics.size import Size
from objectives.runtimes.eager import Eager
from objectives.runtimes.onnxruntime import Onnxruntime
from objectives.runtimes.openvino import Openvino
from spaces import Plan, Task
from spaces.modules.codes import Codes
from spaces.techniques.deploy.coding import Coding


class Owner:
    def model(self) -> nn.Module:
        return built(Convolutions)


TASK = cast(Task, Owner())


@given(st.binary(max_size=400), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_coding_is_undone_exactly(content: bytes, times: int) -> None:
    assert decompress(compress(content * times)) == content * times


def test_frequent_bytes_take_little_more_than_their_entropy() -> None:
    share = np.array([0.6] + [0.4 / 15] * 15)
    codes = np.random.default_rng(0).choice(16, 80_000, p=share).astype(np.uint8)
    entropy = float(-(share * np.log2(share)).sum()) / 8 * len(codes)
    packed = codes[::2] | (codes[1::2] << 4)
    assert entropy < len(compress(packed.tobytes())) < 1.06 * entropy + 200


def test_files_come_back_from_a_folder_that_is_removed(tmp_path: Path) -> None:
    contents = {"a.bin": b"0" * 5000, "b": b"x", "deep/c.xml": b"<a/>" * 99}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    compress_files(tmp_path)
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {"a.bin.xz", "b", "deep/c.xml.xz"}
    with decompressed_files(tmp_path) as place:
        assert {n: (place / n).read_bytes() for n in contents} == contents
    assert not place.exists()


def test_a_damaged_file_is_refused() -> None:
    content = bytearray(compress(b"weights" * 100))
    content[len(content) // 2] ^= 1
    with pytest.raises(Undecodable, match="damaged"):
        decompress(bytes(content))


def shipped(kind: Any, folder: Path, **bits: Any) -> Program:
    folder.mkdir()
    runtime, export = kind(), request(built(Convolutions), images(16), folder, **bits)
    write(folder / "artifact", kind.__name__.lower(), runtime, export, {})
    return load(folder / "artifact", runtime, TASK)


@pytest.mark.parametrize("kind", [Eager, Onnxruntime, Openvino])
def test_a_coded_artifact_is_the_same_and_smaller(tmp_path: Path, kind: Any) -> None:
    plain = shipped(kind, tmp_path / "plain", weight_bits=4)
    small = shipped(kind, tmp_path / "small", weight_bits=4, coding="lzma")
    torch.testing.assert_close(small(images(4)), plain(images(4)), rtol=0, atol=1e-6)
    assert small.folder == tmp_path / "small" / "artifact"
    measured = [Size().measure(p, cast(Any, None)).value for p in (plain, small)]
    assert measured[1] < 0.95 * measured[0]
    manifest = json.loads((small.folder / "manifest.json").read_text())
    assert any(name.endswith(".xz") for name in manifest["files"])


def test_a_coded_artifact_that_was_altered_is_refused(tmp_path: Path) -> None:
    program = shipped(Eager, tmp_path / "a", weight_bits=4, coding="lzma")
    file = program.folder / "weights.safetensors.xz"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(Altered, match="was altered"):
        load(program.folder, Eager(), TASK)


def test_codes_are_laid_out_as_the_coder_gains_most() -> None:
    generator = torch.Generator().manual_seed(0)
    share = torch.tensor([0.3, 0.2] + [0.5 / 30] * 30)
    uneven = torch.multinomial(share, 16384, replacement=True, generator=generator)
    even = torch.randint(0, 32, (16384,), generator=generator)
    one = torch.ones(1, 1, 1)
    for codes, bits in ((uneven, 8), (even, 5)):
        made = Codes(
            codes=codes.to(torch.uint8).reshape(8, 1, 2048),
            bits=5,
            shape=(8, 2048),
            scale=one,
            zero=one,
        )
        assert layout(made, "lzma").bits == bits
        assert layout(made, "none").bits == 5


def test_the_setting_asks_for_its_coder() -> None:
    assert Coding(coder="lzma").plan(Plan()).encoding.coding == "lzma"
    with pytest.raises(ValueError, match="coder must be one of none, lzma, got 'zip'"):
        Coding(coder="zip")
