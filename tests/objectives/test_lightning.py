"""Lightning modules with their data modules as tasks, where Lightning is installed."""

import warnings
from pathlib import Path

import pytest
import torch

from search.checks import check
from search.errors import BadTask
from search.experiment import Experiment, default_for_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries that Lightning imports
    pytest.importorskip("lightning", reason="needs lightning")
    from objectives.tasks.lightning import Lightning

FILE = """
import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Lit(lightning.LightningModule):
    def __init__(self, width=16):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.5)

    def forward(self, x):
        return self.net(x)


class Data(lightning.LightningDataModule):
    def setup(self, stage):
        x = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
        self.points = TensorDataset(x, x[:, :3].argmax(1))

    def train_dataloader(self):
        return DataLoader(self.points, batch_size=7, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.points, batch_size=7)

    def test_dataloader(self):
        return DataLoader(self.points, batch_size=7)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "lit.py").write_text(FILE)
    return tmp_path / "lit.py"


def test_a_module_and_its_data_are_a_checked_experiment(file: Path) -> None:
    experiment = default_for_model(f"lightning:{file}")
    assert Experiment.of(experiment.to_json(), experiment.folder).task == experiment.task
    space = {"deploy.runtime": {"name": ["null", "eager"]}}
    lines = check.check(
        Experiment(task=experiment.task, space=space, objectives={"accuracy": {}, "size": {}})
    )
    assert any("score" in line for line in lines)
    assert any("no checkpoint was given" in line for line in lines)
    assert lines[-1] == "ok"


def test_batches_have_the_size_that_is_asked_for_and_the_loss_is_the_modules(file: Path) -> None:
    task = Lightning(file=file)
    inputs, targets = next(task.batches("validation", 16))
    assert len(inputs) == 16
    outputs = task.model()(inputs)
    smoothed = torch.nn.functional.cross_entropy(outputs, targets, label_smoothing=0.5)
    assert torch.equal(task.loss(outputs, targets), smoothed)
    assert task.score(torch.nn.functional.one_hot(targets, 3).float(), targets) == 1
    assert sum(len(y) for _, y in task.batches("train", 64)) == 96


def test_a_state_dict_is_loaded(file: Path, tmp_path: Path) -> None:
    state = Lightning(file=file).model().state_dict()
    state["net.0.bias"] += 1
    torch.save(state, tmp_path / "a.pt")
    loaded = Lightning(file=file, checkpoint=tmp_path / "a.pt")
    assert torch.equal(loaded.model().state_dict()["net.0.bias"], state["net.0.bias"])
    assert loaded.notices() == ()


def test_faults_are_one_line(file: Path, tmp_path: Path) -> None:
    def fault(text: str) -> str:
        other = tmp_path / f"other{len(list(tmp_path.iterdir()))}.py"
        other.write_text(text)
        with pytest.raises(BadTask) as error:
            check.inspect_model(default_for_model(f"lightning:{other}"))
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    two = FILE + "\n\nclass More(Lit):\n    pass\n"
    assert "must have one LightningModule, it has Lit, More" in fault(two)
    (tmp_path / "two.py").write_text(two)
    named = default_for_model(f"lightning:{tmp_path / 'two.py'}:More")
    assert type(check.inspect_model(named)[1]).__name__ == "More"
    assert named.to_json()["task"]["lightning"]["network"] == "More"
    alone = FILE[: FILE.index("class Data")]
    assert "must have one LightningDataModule, it has none" in fault(alone)
    needs = FILE.replace("width=16", "width")
    assert "Lit cannot be used: TypeError" in fault(needs)
    assert "must return one DataLoader" in fault(
        FILE.replace("return DataLoader(self.points, batch_size=7)", "return []")
    )
