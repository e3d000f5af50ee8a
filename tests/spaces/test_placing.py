"""Where models are worked on, and tasks whose batches come there."""

import pytest
import torch
from _blobs import Dicts
from torch import nn

from spaces.devices import device_of
from spaces.modules.on_device import COPIES, placed, workplace


def test_a_model_without_room_on_the_gpu_is_worked_on_by_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(10, 9, bias=False)  # 360 bytes
    for free, expected in ((360 * COPIES + 1, "cuda"), (360 * COPIES, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 10**9))
        assert workplace(model, "cuda").type == expected
    assert workplace(model, "cpu").type == "cpu"


def test_on_the_cpu_a_task_is_itself() -> None:
    task = Dicts()
    assert placed(task, "cpu") is task


def test_a_task_elsewhere_moves_inputs_and_targets_and_keeps_the_rest() -> None:
    task = Dicts()
    there = placed(task, "meta")
    inputs, targets = next(there.batches("train", 8))
    assert {t.device.type for t in (*inputs.values(), *targets.values())} == {"meta"}
    assert there.describe() == task.describe()


def test_targets_that_are_not_tensors_stay() -> None:
    class Named(Dicts):
        def batches(self, split, batch_size):  # type: ignore[no-untyped-def]
            for inputs, _ in super().batches(split, batch_size):
                yield inputs, ["a name"] * batch_size

    _, targets = next(placed(Named(), "meta").batches("train", 8))
    assert targets == ["a name"] * 8


def test_exactness_on_a_gpu_ends_with_its_block() -> None:
    before = torch.backends.cudnn.allow_tf32
    with device_of("cuda").exact():
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
