"""The experiment that a task alone gets suits the hardware."""

from pathlib import Path

import pytest
import torch

from search.errors import BadExperiment
from search.experiment.from_task import default_for

TASK = "def model(): ...\ndef batches(split, batch_size): ...\n"


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "task.py").write_text(TASK)
    return tmp_path / "task.py"


def with_gpus(patch: pytest.MonkeyPatch, count: int) -> None:
    patch.setattr(torch.version, "cuda", "13.0")
    patch.setattr(torch.cuda, "is_available", lambda: count > 0)
    patch.setattr(torch.cuda, "device_count", lambda: count)


def test_without_a_gpu_it_is_for_the_processor(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 0)
    found = default_for(task)
    assert found.target.device == "cpu"
    assert {"onnxruntime", "openvino"} <= set(found.runtime_names())
    assert "placement.devices.count" not in found.space.neutral()
    assert found.target.threads == 1
    assert [goal.name for goal in found.objectives] == ["accuracy", "latency"]
    assert any("on one thread" in notice for notice in found.notices)


def test_integers_with_bfloat16_for_the_rest_are_searched(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 0)
    space = default_for(task).space
    point = space.neutral() | {
        "quantize.integer.weight_bits": 8,
        "quantize.integer.activation_bits": 8,
        "precision.compute.dtype": "bfloat16",
    }
    assert space.canonical(point) == point
    encoding = space.plan(point).encoding
    assert (encoding.weight_bits, encoding.activation_bits, encoding.dtype) == (8, 8, "bfloat16")


def test_with_gpus_it_is_for_them_and_their_number_is_searched(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 1)
    one = default_for(task)
    assert one.target.device == "cuda"
    assert "onnxruntime" not in one.runtime_names()
    assert one.space.dimensions()["precision.compute.dtype"].holds("float8")
    assert "throughput" not in [goal.name for goal in one.objectives]
    with_gpus(monkeypatch, 6)
    several = default_for(task)
    assert several.space.dimensions()["placement.devices.count"].values() == (1, 2, 4)
    assert "throughput" in [goal.name for goal in several.objectives]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("模型", "task"),
        ("模型 v2", "v2"),
        ("my model (2)", "my-model-2"),
        ("\U0001f642", "task"),
        ("x" * 80, "x" * 64),
    ],
)
def test_a_task_may_lie_in_a_folder_of_any_name(tmp_path: Path, folder: str, name: str) -> None:
    (tmp_path / folder).mkdir()
    file = tmp_path / folder / "task.py"
    file.write_text(TASK)
    found = default_for(file)
    assert found.name == name
    assert Path(found.task.file) == file.resolve()


def test_a_task_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadExperiment, match="no task at"):
        default_for(tmp_path / "absent.py")
