"""Artifacts: what is exported twice is known to be the same, what differs is not."""

from pathlib import Path
from typing import Any

import pytest
from _networks import Convolutions, built, images, request
from torch import nn

from objectives import Runtime
from objectives.artifacts import identity, write
from objectives.runtimes.eager import Eager
from objectives.runtimes.onnxruntime import Onnxruntime
from objectives.runtimes.openvino import Openvino

PLACED = {"placement": {"count": 1}}


def exported(folder: Path, runtime: Runtime, model: nn.Module, **bits: int) -> dict[str, Any]:
    export = request(model, images(16), folder, **bits)
    return write(folder, type(runtime).__name__, runtime, export, PLACED)


@pytest.mark.parametrize("bits", [{}, {"weight_bits": 8, "activation_bits": 8}])
@pytest.mark.parametrize("runtime", [Eager(), Onnxruntime(), Openvino()])
def test_what_is_exported_twice_is_the_same(
    tmp_path: Path, runtime: Runtime, bits: dict[str, int]
) -> None:
    if bits and isinstance(runtime, Eager):
        bits = {"weight_bits": 8}
    one, two = (exported(tmp_path / n, runtime, built(Convolutions), **bits) for n in "ab")
    assert identity(one) == identity(two)


def test_other_weights_runtimes_and_devices_are_others(tmp_path: Path) -> None:
    one = exported(tmp_path / "one", Eager(), built(Convolutions))
    changed = built(Convolutions)
    next(changed.parameters()).data[0] += 1
    two = exported(tmp_path / "two", Eager(), changed)
    three = exported(tmp_path / "three", Openvino(), built(Convolutions))
    four = one | {"placement": {"count": 2}}
    assert len({identity(m) for m in (one, two, three, four)}) == 4
