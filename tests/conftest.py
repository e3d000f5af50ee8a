"""What several tests share: small experiments on the fake device and on digits."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores

import pytest
import torch

from spaces import devices

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

TASK = """
import torch
from torch import nn


def model():
    torch.manual_seed(0)
    first, second = nn.Linear(6, 32), nn.Linear(32, 32)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(32, 3))


def batches(split, batch_size):
    seed = {"train": 1, "validation": 2, "test": 3}[split]
    inputs = torch.randn(96, 6, generator=torch.Generator().manual_seed(seed))
    targets = inputs[:, :3].argmax(1)
    for start in range(0, 96, batch_size):
        yield inputs[start : start + batch_size], targets[start : start + batch_size]
"""

EXPERIMENT = """
name = "tiny"
trials = 8

[task.python]
file = "task.py"

[space.prune.channels]
ratio = [0.0, 0.25, 0.5]

[space.quantize.integer]
weight_bits = [32, 8]
activation_bits = [32, 8]

[space.distill.logits]
temperature = [1.0, 4.0]
steps = [0, 3]

[space.deploy.runtime]
name = ["null"]

[objectives.accuracy]

[objectives.latency]
seconds = 0.01

[objectives.size]
"""

TPU = """
import torch
from spaces.devices import Device


class Xla(Device):
    accelerator, backend, visible = "TPU", "xla", "TPU_VISIBLE_CHIPS"
    spread, shortest, step_flops = 0.02, 1e-4, 1e13
    here = 0  # TPUs of this machine

    def lacks(self):
        return None if self.here else "The target asks for xla, and this machine has no TPU."

    def count(self):
        return self.here

    def initialized(self):
        return False

    def select(self, index):
        return torch.device("xla", index)

    def synchronize(self):
        pass

    def memory(self):
        return 2**34, 2**34

    def peak_memory(self, work):
        work()
        return 1

    def trains_in(self, dtype):
        return dtype in ("float32", "bfloat16")

    def native_bfloat16(self):
        return True
"""


@pytest.fixture
def tpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[devices.Device]]:
    """Another accelerator: one more file of the catalogue, and nothing else."""
    folder = tmp_path / "devices"
    folder.mkdir()
    (folder / "xla.py").write_text(TPU)
    monkeypatch.setattr(devices, "__path__", [*devices.__path__, str(folder)])
    yield type(devices.device_of("xla"))
    del sys.modules["spaces.devices.xla"]
    vars(devices).pop("xla", None)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the task and the experiment of a user, on the fake device."""
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    return tmp_path


@pytest.fixture
def same_threads() -> Iterator[None]:
    """Let PyTorch use as many threads after a test as before it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread(same_threads: None) -> None:
    """Compute on one thread: tiny tensors on many threads of a busy machine wait for each other."""
    torch.set_num_threads(1)
