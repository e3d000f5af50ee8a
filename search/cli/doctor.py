"""Report on this machine: versions, processor, accelerators, and encodings of each runtime."""

import contextlib
import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from objectives import Objective, Runtime, Target
from objectives.artifacts import versions
from objectives.host import cores, processor
from search import catalogue
from search.errors import SearchError
from spaces import Encoding
from spaces.devices import Device, all_devices

ENCODINGS = {
    "float32": Encoding(),
    "tf32": Encoding(dtype="tf32"),
    "bfloat16": Encoding(dtype="bfloat16"),
    "float16": Encoding(dtype="float16"),
    "float8": Encoding(dtype="float8"),
    "int8": Encoding(weight_bits=8, activation_bits=8),
    "int8 weights": Encoding(weight_bits=8),
    "int4 weights": Encoding(weight_bits=4),
}
ROOM = 2**30
"""Free bytes below which a search is likely to fill the disk."""


def report(*, as_json: bool) -> str:
    """Return the report as text or as JSON."""
    report_data = examine()
    if as_json:
        return json.dumps(report_data, indent=1)
    lines = [f"{name:<14} {value}" for name, value in report_data["machine"].items()]
    lines += [f"{name:<14} {value}" for name, value in report_data["versions"].items()]
    for name, encodings in report_data["runtimes"].items():
        lines.append(f"runtime {name}")
        lines += [f"    {encoding:<14} {answer}" for encoding, answer in encodings.items()]
    lines.append("objectives")
    lines += [f"    {name:<14} {answer}" for name, answer in report_data["objectives"].items()]
    return "\n".join(lines + [f"warning: {w}" for w in report_data["warnings"]])


def examine() -> dict[str, Any]:
    """Return the machine, the versions, the encodings that runtimes can execute, and warnings."""
    free = shutil.disk_usage(Path.cwd()).free
    warnings = []
    if free < ROOM:
        warnings.append(f"only {free / 2**20:.0f} MiB are free here; a search may fill the disk")
    extra = ("optuna", "mlflow", "pandas", "transformers")
    return {
        "machine": {
            "processor": processor(),
            "cores": cores(),
            "load": f"{os.getloadavg()[0]:.1f}",
            "free disk": f"{free / 2**30:.1f} GiB",
            **_accelerators(),
            "compiler": next((c for c in ("g++", "clang++") if shutil.which(c)), "none"),
        },
        "versions": versions(*_usable()) | {name: _version(name) for name in extra},
        "runtimes": {
            f"{name} on {device.name}" if device.accelerator else name: _support(name, device)
            for device in all_devices()
            if device.available()
            for name in catalogue.names("runtime")
        },
        "objectives": {
            f"{name} on {device.name}" if device.accelerator else name: _measurable(name, device)
            for device in all_devices()
            if device.available()
            for name in catalogue.names("objective")
        },
        "warnings": warnings,
    }


def _usable() -> list[Runtime]:
    """Return the runtimes whose packages are installed."""
    usable = []
    for name in catalogue.names("runtime"):
        with contextlib.suppress(SearchError):
            usable.append(catalogue.find("runtime", name, Runtime)())
    return usable


def _accelerators() -> dict[str, str]:
    """Return the number of each accelerator product, by the kind of accelerator."""
    accelerators = {}
    for device in all_devices():
        if device.accelerator:
            names = device.product_names() if device.available() else []
            counts = (f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
            accelerators[f"{device.accelerator.lower()}s"] = ", ".join(counts) or "none"
    return accelerators


def _support(name: str, device: Device) -> dict[str, str]:
    """Return for each encoding which layers a runtime has kernels for, or why for none."""
    try:
        runtime = catalogue.find("runtime", name, Runtime)()
    except SearchError as error:
        return {"unusable": str(error)}
    target = Target(device=device.name)
    return {label: _answer(runtime, encoding, target) for label, encoding in ENCODINGS.items()}


def _answer(runtime: Runtime, encoding: Encoding, target: Target) -> str:
    """Return "yes", "linear layers only" or the reason against it.

    There is no model here: one of convolutions and linear layers is asked for, then one of linear
    layers, which alone have kernels of 8 bits in some runtimes.
    """
    if runtime.refuses(encoding, target, frozenset({"Conv2d", "Linear"})) is None:
        return "yes"
    reason = runtime.refuses(encoding, target, frozenset({"Linear"}))
    return reason or "linear layers only"


def _measurable(name: str, device: Device) -> str:
    """Return "yes" if an objective can be measured on a device here, else the reason against it."""
    objective = catalogue.find("objective", name, Objective)()
    return objective.refuses(Target(device=device.name), frozenset()) or "yes"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
