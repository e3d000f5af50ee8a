"""The default experiment of a task: a search space for the hardware of this machine."""

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
    """Return an experiment for a task: the usual techniques, and the hardware of this machine.

    The target is an accelerator if there is one, else one thread of the processor. All cores are
    often slower with one sample at a time, and much slower on a busy machine (15 ms on one thread,
    256 ms on all): against such a baseline, slow candidates would look like speed-ups. Raises
    BadExperiment if the task file does not exist.
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
    types = ["float32", "bfloat16"]
    if accelerators:
        types = ["float32", "tf32", "bfloat16", "float16", "float8"]
    encodings: dict[str, Any] = {
        "quantize.integer": {"weight_bits": [32, 8, 4], "activation_bits": [32, 8]},
        "precision.compute": {"dtype": types},
    }
    if accelerators:  # the opening combines pruning with the first of them only
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
    """Return accuracy and latency; with several accelerators also throughput.

    The size of the files is shown all the same, and is searched where an experiment asks for it.
    Throughput benefits from the number of accelerators. The accuracy may fall by 0.05 for a score
    from 0 to 1, else by 5 % of its magnitude.
    """
    objectives: dict[str, Any] = {"accuracy": {"within": "5%"}, "latency": {}}
    return objectives | ({"throughput": {}} if accelerators > 1 else {})


def _runtimes(target: Target) -> list[str]:
    """Return the usual runtimes that execute unencoded models at the target."""
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
    """Return a folder's name reduced to the characters of an experiment's name."""
    plain = re.sub(r"[^\w.-]+", "-", folder, flags=re.ASCII)
    return plain.strip(".-_")[:64] or "task"


def _device() -> Device:
    """Return the device of the first accelerator of this machine, or the processor without one."""
    accelerators = (device for device in all_devices() if device.accelerator)
    return next((device for device in accelerators if device.available()), device_of(HOST))
