"""Detection of models that crash OpenVINO's compiler, and settings that avoid the crash.

In OpenVINO 2026.4.1, compile_model ends the process on a linear layer followed by two residual
blocks of linear layers on vectors, in float32 at a batch below 32. The crash depends on the batch,
the number of threads and the processor, so each model is tried with the settings it will be
compiled with. Without the plugin's just-in-time subgraphs (snippets) the same models compile and
run.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objectives.exporting import without_module

with without_module("openvino_telemetry"):  # it reports every import over the network
    import openvino

AVOIDED = {"SNIPPETS_MODE": "DISABLE"}
"""Settings that avoid the crash."""
UNCALIBRATED = (
    "OpenVINO's compiler crashes on this model's chain of linear layers while it is calibrated "
    "for 8-bit activations; with batches of 32 samples it has not been seen to."
)
SUSPECT = 4
"""Number of matrix products of vectors from which a model is tried; fewer never crashed."""
SECONDS = 120.0
"""Longest time that a model is tried."""
_COMPILE = (
    "import json, openvino, sys; "
    "openvino.Core().compile_model(sys.argv[1], 'CPU', json.loads(sys.argv[2]))"
)
CALIBRATING = {"INFERENCE_PRECISION_HINT": "f32"}
"""The settings with which NNCF compiles a model to calibrate it."""


def crashes(model: openvino.Model, file: Path, settings: Mapping[str, Any]) -> bool:
    """True if compiling a model, saved as `file`, ends the process; a separate process tries it."""
    if sum(_of_vectors(node) for node in model.get_ops()) < SUSPECT:
        return False
    command = [sys.executable, "-c", _COMPILE, str(file), json.dumps(settings)]
    try:
        completed = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False  # the next compilation has a time limit of its own, with a message
    return completed.returncode < 0


def _of_vectors(node: Any) -> bool:
    if node.get_type_name() != "MatMul":
        return False
    shape = node.input(0).get_partial_shape()
    return bool(shape.rank.is_static and shape.rank.get_length() == 2)
