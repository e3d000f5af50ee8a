"""The experiment that a task alone gets: a space for the hardware found, no TOML needed."""

import re
from pathlib import Path
from typing import Any

from objectives import Runtime, Target
from search import catalogue
from search.errors import BadEnvironment, BadExperiment
from search.experiment.experiment import Experiment
from spaces import Encoding
from spaces.devices import HOST, Device, all_devices, device_of

ONE_THREAD = (
    "speed is measured on one thread; if you deploy on more, set target.threads in a copy of the "
    "run folder's experiment.toml and run that"
)


def default_for(task: Path) -> Experiment:
    """Return an experiment for a task alone: usual techniques, and the hardware found here.

    The target is an accelerator where there is one, and one thread of the processor otherwise:
    with one sample at a time all cores are often slower, and on a machine that is shared by far
    (15 ms on one thread were 256 on all), so that what is slow by itself would look like a
    speed-up. Raises BadExperiment without a task.
    """
    if not task.is_file():
        raise BadExperiment(f"no task at {task}; write one with model() and batches()")
    device = _device()
    accelerators = device.count() if device.accelerator else 0
    target = Target(device=device.name, threads=1, batch_size=1)
    folder = task.resolve().parent
    return Experiment(
        name=_name(folder.name),
        task={"python": {"file": str(task.resolve())}},
        target=target,
        space=_space(target, accelerators),
        objectives=_objectives(accelerators),
        folder=folder,
        notices=() if accelerators else (ONE_THREAD,),
    )


def _space(target: Target, accelerators: int) -> dict[str, Any]:
    types = ["float32", "bfloat16", *(["float16", "float8"] if accelerators else [])]
    encodings: dict[str, Any] = {
        "quantize.integer": {"weight_bits": [32, 8, 4], "activation_bits": [32, 8]},
        "precision.compute": {"dtype": types},
    }
    if accelerators:  # what comes first is tried together with pruning first
        encodings = dict(reversed(encodings.items()))
    space = {
        "prune.channels": {"ratio": {"low": 0.0, "high": 0.7, "step": 0.1}},
        **encodings,
        "distill.logits": {},
        "deploy.runtime": {"name": _runtimes(target)},
    }
    if accelerators > 1:
        counts = [2**i for i in range(accelerators.bit_length()) if 2**i <= accelerators]
        space["placement.devices"] = {"count": counts}
    return space


def _objectives(accelerators: int) -> dict[str, Any]:
    """Return accuracy, latency and size; a number of accelerators needs an objective that sees it.

    0.05 of a score from 0 to 1 may be lost; of any other, 5 % of its magnitude.
    """
    objectives: dict[str, Any] = {"accuracy": {"within": "5%"}, "latency": {}, "size": {}}
    return objectives | ({"throughput": {}} if accelerators > 1 else {})


def _runtimes(target: Target) -> list[str]:
    """Return the usual runtimes that execute plain models at the target."""
    usable = []
    for name in catalogue.names("runtime"):
        try:
            runtime = catalogue.find("runtime", name, Runtime)
        except BadEnvironment:  # its package is not installed
            continue
        if runtime.usual and not runtime().refuses(Encoding(), target, frozenset()):
            usable.append(name)
    return usable


def _name(folder: str) -> str:
    """Return what an experiment may be called after a folder of any name."""
    plain = re.sub(r"[^\w.-]+", "-", folder, flags=re.ASCII)
    return plain.strip(".-_")[:64] or "task"


def _device() -> Device:
    """Return the kind of an accelerator that this machine has, the processor without one."""
    accelerators = (device for device in all_devices() if device.accelerator)
    return next((device for device in accelerators if device.available()), device_of(HOST))
