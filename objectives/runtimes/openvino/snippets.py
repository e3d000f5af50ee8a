"""Chains of linear layers on which OpenVINO's compiler crashes, and what avoids it.

Seen in 2026.4.1: a linear layer and two residual blocks of linear layers on vectors, in float32 at
a batch under 32, end the process in compile_model. Whether they do depends on the batch, the number
of threads and the processor, so each model is tried with the settings it will be compiled with.
Without the plugin's just-in-time subgraphs (snippets) the same models compile and run.
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
UNCALIBRATED = (
    "OpenVINO's compiler crashes on this model's chain of linear layers while it is calibrated "
    "for 8-bit activations; with batches of 32 samples it has not been seen to."
)
SUSPECT = 4
"""Matrix products of vectors from which a model is tried: fewer have never crashed."""
SECONDS = 120.0
_COMPILE = (
    "import json, openvino, sys; "
    "openvino.Core().compile_model(sys.argv[1], 'CPU', json.loads(sys.argv[2]))"
)
CALIBRATING = {"INFERENCE_PRECISION_HINT": "f32"}
"""The settings NNCF compiles a model with to calibrate it."""


def crashes(model: openvino.Model, file: Path, settings: Mapping[str, Any]) -> bool:
    """Whether compiling a model, saved as `file`, ends the process; tried in one of its own."""
    if sum(_of_vectors(node) for node in model.get_ops()) < SUSPECT:
        return False
    command = [sys.executable, "-c", _COMPILE, str(file), json.dumps(settings)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False  # whoever compiles it next has a time limit that is told of
    return done.returncode < 0


def _of_vectors(node: Any) -> bool:
    if node.get_type_name() != "MatMul":
        return False
    shape = node.input(0).get_partial_shape()
    return bool(shape.rank.is_static and shape.rank.get_length() == 2)
