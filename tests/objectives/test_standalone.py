"""The lines that run an artifact by its runtime alone, in a process without this project."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from _runtimes import Images, Mixed, Tiny, asked

from objectives import Runtime, Target
from objectives.runtimes.eager import Eager
from objectives.runtimes.inductor import Inductor
from objectives.runtimes.onnxruntime import Onnxruntime
from objectives.runtimes.openvino import Openvino
from spaces import Encoding
from spaces.modules import call, flatten

SAVE = """
import numpy
several = outputs if isinstance(outputs, (list, tuple)) else [outputs]
numpy.savez("found.npz", *[numpy.asarray(output) for output in several])
"""
INT8 = Encoding(weight_bits=8)


def xla() -> Runtime:
    """Return the runtime XLA; skips the test where its extra is not installed."""
    package = pytest.importorskip("objectives.runtimes.xla", reason="needs the extra [xla]")
    runtime: Runtime = package.Xla()
    return runtime


@pytest.mark.parametrize("network", [Images, Mixed])
@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        (Onnxruntime, Encoding()),
        (Onnxruntime, INT8),
        (Openvino, Encoding()),
        pytest.param(Inductor, Encoding(), marks=pytest.mark.slow),
        pytest.param(xla, Encoding(), marks=pytest.mark.slow),
    ],
)
def test_they_compute_what_the_model_does(
    tmp_path: Path, kind: Callable[[], Runtime], encoding: Encoding, network: type[torch.nn.Module]
) -> None:
    task, target = Tiny(network), Target(batch_size=2)
    export = asked(task, tmp_path, encoding, target)
    runtime = kind()
    notes = runtime.export(export)
    lines = runtime.standalone(export.signature, target, notes)
    assert lines is not None
    subprocess.run([sys.executable, "-c", lines + SAVE], cwd=tmp_path, check=True)
    stored = np.load(tmp_path / "found.npz")
    zeros = [
        torch.zeros(shape, dtype=getattr(torch, kind_of))
        for shape, kind_of in zip(
            export.signature.input_shapes, export.signature.input_types, strict=True
        )
    ]
    names = export.signature.input_names
    inputs = dict(zip(names, zeros, strict=True)) if len(zeros) > 1 else zeros[0]
    with torch.no_grad():
        expected = flatten(call(task.model(), inputs))[0]
    assert len(stored.files) == len(expected)
    for name, wanted in zip(stored.files, expected, strict=True):
        found = torch.as_tensor(stored[name], dtype=torch.float32)
        torch.testing.assert_close(
            found, wanted.float(), rtol=0, atol=5e-2 if encoding.quantized else 1e-4
        )


def test_what_code_rebuilds_has_none(tmp_path: Path) -> None:
    export = asked(Tiny(Images), tmp_path, Encoding(), Target())
    assert Eager().standalone(export.signature, Target(), Eager().export(export)) is None
