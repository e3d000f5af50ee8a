"""The user's own task: what comes in other types than float32 is float32 from there on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from objectives.tasks.python import Python
from spaces import Encoding, Recovery
from spaces.quantization.encode import encoded
from spaces.training.recovery import recover

TASK = """
import torch
from torch import nn

TYPE = torch.{type}


def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1))
    return net.to(TYPE)


def batches(split, batch_size):
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(len(split))).to(TYPE)
    for start in range(0, 64, batch_size):
        part = inputs[start : start + batch_size]
        yield part, part[:, :1]


def loss(outputs, targets):
    return nn.functional.mse_loss(outputs, targets)


def score(outputs, targets):
    return -float(loss(outputs, targets))
"""


def task(folder: Path, kind: str) -> Python:
    file = folder / "task.py"
    file.write_text(TASK.format(type=kind))
    return Python(file=str(file))


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16", "float32"])
def test_model_inputs_and_targets_are_float32_whatever_they_come_in(
    tmp_path: Path, kind: str
) -> None:
    own = task(tmp_path, kind)
    assert next(own.given().parameters()).dtype is getattr(torch, kind)
    model = own.model()
    inputs, targets = next(iter(own.batches("train", 8)))
    tensors = (*model.parameters(), model[1].running_mean, inputs, targets)  # type: ignore[index]
    assert {t.dtype for t in tensors} == {torch.float32}
    loss = own.loss(model(inputs), targets)
    loss.backward()
    assert bool(loss.isfinite())


def test_what_needs_no_cast_is_passed_on_as_the_user_made_it(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text(
        "import torch\nfrom collections import OrderedDict\n"
        "IDS = OrderedDict(ids=torch.arange(4), weight=torch.ones(4))\nWORDS = ['a', 'b']\n"
        "def batches(split, batch_size):\n    yield IDS, WORDS\n"
    )
    ((inputs, targets),) = Python(file=str(file)).batches("train", 4)
    assert type(inputs).__name__ == "OrderedDict"
    assert inputs["ids"].dtype is torch.int64
    assert targets == ["a", "b"]


def test_the_cast_model_computes_what_the_given_one_does(tmp_path: Path) -> None:
    own = task(tmp_path, "float64")
    inputs: Any = next(iter(own.batches("test", 16)))[0]
    with torch.no_grad():
        difference = F.mse_loss(own.model()(inputs).double(), own.given()(inputs.double()))
    assert float(difference) < 1e-12


def test_training_and_rounding_work_on_a_model_that_comes_in_float64(tmp_path: Path) -> None:
    own = task(tmp_path, "float64")
    reference = own.model()
    losses: list[float] = []
    recovery = Recovery(steps=2, batch_size=16, teacher_weight=0.5)
    recover(
        own.model(), reference, own, recovery, seed=0, progress=lambda *step: losses.append(step[2])
    )
    assert len(losses) == 2
    for encoding in (Encoding(weight_bits=2), Encoding(mean_bits=4)):
        whole = encoded(reference, own, encoding)
        assert whole.model(next(iter(own.batches("test", 4)))[0]).dtype is torch.float32
