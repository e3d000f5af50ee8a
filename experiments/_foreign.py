"""Tools that are not ours, each started in a fresh process on as many cores as the target has."""

import contextlib
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _agreement import Timing

from objectives.host import exclusive, pin

CLOCKS = Path(__file__).parent / "clocks"
TOOLS = {
    ("cpu", "openvino"): "benchmark_app",
    ("cpu", "onnxruntime"): "ONNX Runtime's loop",
    ("cpu", "eager"): "torch.utils.benchmark",
    ("cpu", "inductor"): "torch.utils.benchmark",
    ("cuda", "eager"): "CUDA events",
    ("cuda", "inductor"): "CUDA events",
}
"""The tool by device type and runtime."""
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
TYPES = {"float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32", "bool": "bool"}
LIMIT = 300.0
"""Seconds after which a tool is ended."""


class Unusable(Exception):
    """A tool cannot time an artifact; the message is the reason."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Foreign:
    """What every tool is told."""

    inputs: Path
    """Folder with one NAME.npy for each input of the artifacts."""
    scratch: Path
    seconds: float
    """Of each process, apart from loading."""

    def timing(self, artifact: Path, manifest: Mapping[str, Any]) -> Timing:
        """Time an artifact in a fresh process; raises Unusable."""
        refuse(manifest)
        runtime, target = manifest["runtime"], manifest["target"]
        with exclusive(target["device"]), _pinned(target):
            if runtime == "openvino":
                return read_report(_output(self._benchmark_app(artifact, manifest)))
            if runtime == "onnxruntime":
                return _timing(self._onnxruntime(artifact, manifest))
            return _timing(self._torch(artifact, manifest))

    def _benchmark_app(self, artifact: Path, manifest: Mapping[str, Any]) -> list[str]:
        """Return the command line; the settings are those of our runtime."""
        config = self.scratch / "benchmark_app.json"
        config.write_text(json.dumps({"CPU": _plugin_settings(manifest["notes"])}))
        names = manifest["signature"]["input_names"]
        types = manifest["signature"]["input_types"]
        given = [f"{name}:{self.inputs / f'{name}.npy'}" for name in names]
        return [
            str(Path(sys.executable).with_name("benchmark_app")),
            *("-m", str(artifact / "model.xml"), "-d", "CPU", "-api", "sync"),
            *("-hint", "none", "-nstreams", "1", "-pin", "NO"),
            *("-nthreads", str(manifest["target"]["threads"])),
            *("-infer_precision", PRECISIONS[manifest["notes"]["dtype"]]),
            *("-t", str(math.ceil(self.seconds)), "-load_config", str(config)),
            # otherwise it takes float inputs for images, and inserts conversions from uint8
            *("-iop", ", ".join(f"{n}:{TYPES[t]}" for n, t in zip(names, types, strict=True))),
            *("-i", *given),
        ]

    def _onnxruntime(self, artifact: Path, manifest: Mapping[str, Any]) -> list[str]:
        fold = manifest["notes"].get("weights_dequantized_at_load", False)
        return [
            sys.executable,
            str(CLOCKS / "onnxruntime_loop.py"),
            str(artifact / "model.onnx"),
            *self._common(manifest),
            *(["--fold"] if fold else []),
        ]

    def _torch(self, artifact: Path, manifest: Mapping[str, Any]) -> list[str]:
        device = manifest["target"]["device"]
        script = "torch_timer.py" if device == "cpu" else "cuda_events.py"
        return [sys.executable, str(CLOCKS / script), str(artifact), *self._common(manifest)]

    def _common(self, manifest: Mapping[str, Any]) -> list[str]:
        threads = str(manifest["target"]["threads"])
        return [
            *("--inputs", str(self.inputs), "--threads", threads),
            *("--seconds", str(self.seconds)),
        ]


def refuse(manifest: Mapping[str, Any]) -> None:
    """Raise Unusable if no tool can run an artifact as our runtime does."""
    runtime, device = manifest["runtime"], manifest["target"]["device"]
    if (device, runtime) not in TOOLS:
        raise Unusable(f"no tool for {runtime} on {device}")
    if manifest.get("placement", {}).get("count", 1) > 1:
        raise Unusable("it is on several devices")
    if manifest["encoding"].get("coding", "none") != "none":
        raise Unusable("its files are compressed")
    if runtime == "eager" and manifest["notes"].get("kernels"):
        raise Unusable("its layers multiply by codes, which no other tool loads")


def tool(manifest: Mapping[str, Any]) -> str:
    """Return the name of the tool for an artifact that is not refused."""
    return TOOLS[manifest["target"]["device"], manifest["runtime"]]


def read_report(text: str) -> Timing:
    """Return the times in benchmark_app's report; raises Unusable if they are not in it.

    It prints two decimals, of microseconds for means below 1 ms and of milliseconds for others.
    """
    found = re.findall(r"(Median|Min):\s+([\d.]+) (us|ms)\b", text)
    times = {name: float(value) / (1e3 if unit == "us" else 1) for name, value, unit in found}
    if not {"Median", "Min"} <= times.keys():
        raise Unusable(f"benchmark_app reported no latency: {_last_line(text)}")
    return Timing(median=times["Median"], lowest=times["Min"])


def _plugin_settings(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plugin's settings that benchmark_app has no options for."""
    settings: dict[str, Any] = {
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32 if notes["dynamic_activations"] else 0
    }
    if rate := notes.get("decompression_rate"):
        settings["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = rate
    if not notes.get("snippets", True):
        settings["SNIPPETS_MODE"] = "DISABLE"
    return settings


@contextlib.contextmanager
def _pinned(target: Mapping[str, Any]) -> Iterator[None]:
    """Let processes that are started in the block inherit the cores that our own would take."""
    if target["device"] != "cpu" or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    pin(target["threads"])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _timing(command: Sequence[str]) -> Timing:
    return Timing(**json.loads(_output(command).splitlines()[-1]))


def _output(command: Sequence[str]) -> str:
    """Return what a command prints; raises Unusable if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unusable(f"{Path(command[0]).name} took over {LIMIT:g} s") from error
    if done.returncode or not done.stdout.strip():
        raise Unusable(f"exit status {done.returncode}: {_last_line(done.stderr or done.stdout)}")
    return done.stdout


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1][:200]
