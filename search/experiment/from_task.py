"""The experiment that a task alone gets: a space for the hardware found, no TOML needed."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

from search.errors import BadExperiment
from search.experiment.experiment import Experiment
from spaces.devices import HOST, Device, all_devices, device_of

INTEGERS = """\
[space.quantize.integer]
weight_bits = [32, 8, 4]
activation_bits = [32, 8]
"""
TYPES = """\
[space.precision.compute]
dtype = {types}
"""
SEVERAL = """
[space.placement.devices]
count = {counts}

[objectives.throughput]
"""
"""With several accelerators their number has a use, and so needs an objective that sees it."""
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
    accelerated = device.accelerator is not None
    name = _name(task.resolve().parent.name)
    types = ["float32", "bfloat16", *(["float16", "float8"] if accelerated else [])]
    encodings = [INTEGERS, TYPES.format(types=json.dumps(types))]
    if accelerated:  # what comes first is tried together with pruning first
        encodings.reverse()
    text = f"""\
# Made from a task alone, for the machine it was made on.
name = {json.dumps(name)}
seed = 0
trials = 40

[task.python]
file = {json.dumps(str(task.resolve()), ensure_ascii=False)}

[target]
device = {json.dumps(device.name)}
threads = 1
batch_size = 1

[space.prune.channels]
ratio = {{ low = 0.0, high = 0.7, step = 0.1 }}

{chr(10).join(encodings)}
[space.distill.logits]

[space.deploy.runtime]
name = {json.dumps(_runtimes(accelerated))}

[objectives.accuracy]
within = "5%"   # 0.05 of a score from 0 to 1; of any other, 5 % of its magnitude

[objectives.latency]

[objectives.size]
"""
    if accelerated and (count := device.count()) > 1:
        text += SEVERAL.format(counts=[2**i for i in range(count.bit_length())])
    made = Experiment.parse(text, task.resolve().parent)
    return made if accelerated else dataclasses.replace(made, notices=(*made.notices, ONE_THREAD))


def _name(folder: str) -> str:
    """Return what an experiment may be called after a folder of any name."""
    plain = re.sub(r"[^\w.-]+", "-", folder, flags=re.ASCII)
    return plain.strip(".-_")[:64] or "task"


def _device() -> Device:
    """Return the kind of an accelerator that this machine has, the processor without one."""
    accelerators = (device for device in all_devices() if device.accelerator)
    return next((device for device in accelerators if device.available()), device_of(HOST))


def _runtimes(accelerated: bool) -> list[str]:
    compilers = any(shutil.which(name) for name in ("g++", "clang++"))
    own = ["eager", *(["inductor"] if compilers else [])]
    return own if accelerated else [*own, "onnxruntime", "openvino"]
