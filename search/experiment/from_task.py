"""The default experiment of a task: a search space for the hardware of this machine."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objectives import Runtime, Target
from search import catalogue
from search.errors import BadEnvironment, BadExperiment
from search.experiment.experiment import Experiment
from search.experiment.fields import declared_type
from spaces import Encoding, Task
from spaces.devices import HOST, Device, all_devices, device_of

ONE_THREAD = (
    "speed is measured on one thread; if you deploy on more, set target.threads in a copy of the "
    "run folder's experiment.toml and run that"
)


def default_for(task: Path) -> Experiment:
    """Return the default experiment of a task's file; raises BadExperiment if there is none."""
    if not task.is_file():
        raise BadExperiment(f"no task at {task}; write one with model() and batches()")
    folder = task.resolve().parent
    table = {"python": {"file": str(task.resolve())}}
    return _default(table, folder, _name(folder.name))


def default_for_model(
    model: str, data: str | Path | None = None, checkpoint: str | Path | None = None
) -> Experiment:
    """Return the default experiment of a model that is named as TASK:NAME, as timm:resnet18.

    `data` and `checkpoint` are paths for the fields of that name of the task. Raises BadExperiment
    if the task is of another kind, lacks one of the fields or refuses their values.
    """
    task, _, reference = model.partition(":")
    if not reference:
        raise BadExperiment(
            f"a model is named with its library, as timm:resnet18.a1_in1k, torchvision:resnet18, "
            f"hf:FOLDER or lightning:FILE.py, got {model!r}"
        )
    kind = catalogue.find("task", task, Task)
    if kind.reference is None:
        raise BadExperiment(f"the task {task!r} takes no --model: see python -m search names")
    assert dataclasses.is_dataclass(kind)
    kinds = {field.name: declared_type(kind, field.name) for field in dataclasses.fields(kind)}
    settings = {kind.reference: reference}
    for field, path in (("data", data), ("checkpoint", checkpoint)):
        if path is not None and kinds.get(field) not in (Path, Path | None):
            raise BadExperiment(f"the task {task!r} takes no --{field}: it has its own")
        if path is not None:
            settings[field] = str(path)
        elif kinds.get(field) is Path:
            raise BadExperiment(f"--model {task}:... needs --{field} PATH")
    stem = Path(reference).resolve().stem if kinds[kind.reference] is Path else reference
    return _default({task: settings}, Path().resolve(), _name(f"{task}-{stem}"))


def _default(task: Mapping[str, Any], folder: Path, name: str) -> Experiment:
    """Return an experiment for a task: the usual techniques, and the hardware of this machine.

    The target is an accelerator if there is one, else one thread of the processor. All cores are
    often slower with one sample at a time, and much slower on a busy machine (15 ms on one thread,
    256 ms on all): against such a baseline, slow candidates would look like speed-ups.
    """
    device = _device()
    accelerators = device.count() if device.accelerator else 0
    target = Target(device=device.name, threads=1, batch_size=1)
    return Experiment(
        name=name,
        task=task,
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
