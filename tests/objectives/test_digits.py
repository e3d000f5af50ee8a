"""The embedded task: its trained weights and its images are shipped, and are only read."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from objectives.tasks.digits import IMAGES, WEIGHTS, Digits

ROOT = Path(__file__).parents[2]
USE = """
from objectives.tasks.digits import Digits

images, labels = next(Digits().batches("train", 64))
Digits().model()(images)
"""


def test_the_shipped_network_is_accurate() -> None:
    task = Digits()
    for split in ("validation", "test"):
        ((images, labels),) = task.batches(split, 360)
        with torch.inference_mode():
            assert task.score(task.model()(images), labels) >= 0.985


def test_the_shipped_files_are_small() -> None:
    assert WEIGHTS.stat().st_size < 1.5e6
    assert IMAGES.stat().st_size < 0.15e6


def test_every_call_loads_the_same_network() -> None:
    """Whatever was drawn before."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(Digits().model().state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_images_are_those_of_scikit_learn() -> None:
    data, shipped = load_digits(), load_file(IMAGES)
    assert shipped["images"].tolist() == data.images.tolist()
    assert shipped["labels"].tolist() == data.target.tolist()


def test_the_splits_are_all_images_once() -> None:
    splits = {
        split: torch.cat([labels for _, labels in Digits().batches(split, 100)])
        for split in ("train", "validation", "test")
    }
    assert [len(labels) for labels in splits.values()] == [1077, 360, 360]
    everything = torch.cat(list(splits.values()))
    assert sorted(everything.tolist()) == sorted(load_digits().target.tolist())


def test_nothing_is_written_to_the_home_folder(tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", USE], env=environment, cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []
