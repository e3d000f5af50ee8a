"""The zoo: its states, its table, and a task that is the same at every call."""

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import _zoo_models
import _zoo_stages
import _zoo_table

from spaces import Infeasible, Left


class Net(nn.Module):
    """Two layers on small images."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(48, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x.flatten(1)[:, :48])))


def outcome(
    monkeypatch: pytest.MonkeyPatch, folder: Path, build: object, quantized: str = ""
) -> dict[str, object]:
    """Run the stages on a network in the place of one of timm's."""
    monkeypatch.setattr(_zoo_models, "_timm", build)
    monkeypatch.setattr(_zoo_models, "image_side", lambda *_: 16)
    bench = _zoo_stages.Bench(_zoo_models.Zoo("timm:net"), "timm:net", folder / "net.json")
    bench.run(quantized)
    return json.loads((folder / "net.json").read_text())


def test_a_network_is_pruned_exported_and_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = outcome(monkeypatch, tmp_path, lambda name: Net())
    assert (row["state"], row["exports"]) == ("pruned", {"eager": "equal"})
    assert 0.1 < row["removed"] < 0.6
    assert {"build", "prune", "export eager", "reload eager"} == set(row["seconds"])


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (Infeasible("it has no layers"), "refused", "it has no layers"),
        (OSError("out of reach\nmore"), "failed", "OSError: out of reach"),
    ],
)
def test_refusals_and_crashes_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, state: str, reason: str
) -> None:
    class Stubborn(Net):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    row = outcome(monkeypatch, tmp_path, lambda name: Stubborn())
    assert (row["state"], row["stage"], row["reason"]) == (state, "prune", reason)


def test_what_was_left_whole_is_in_the_table() -> None:
    rows = [
        {
            "name": "timm:a",
            "state": "pruned",
            "stage": "reload eager",
            "reason": "",
            "left": ["1 of 2 sets were left whole."],
            "parameters": 2_000_000,
            "removed": 0.25,
            "saved": 0.3,
            "seconds": {"prune": 4.2},
            "differences": {"eager": 1e-7},
            "exports": {"eager": "equal", "onnxruntime 8/8": "refused: no kernel"},
        },
        {
            "name": "timm:b",
            "state": "timeout",
            "stage": "prune",
            "reason": "not done within 9 s",
            "left": [],
            "parameters": 0,
            "removed": 0.0,
            "saved": 0.0,
            "seconds": {},
            "differences": {},
            "exports": {},
        },
    ]
    first, _, _, _, a, b = _zoo_table.table(rows).splitlines()
    assert first.startswith("2 architectures: 1 pruned, 1 timeout.")
    assert "25%, 30%" in a
    assert "1 of 2 sets were left whole. refused: no kernel" in a
    assert "timeout (prune)" in b
    assert "not done within 9 s" in b


def test_the_same_weights_and_batches_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_zoo_models, "_timm", lambda name: Net())
    monkeypatch.setattr(_zoo_models, "image_side", lambda *_: 16)
    task = _zoo_models.Zoo("timm:net")
    assert torch.equal(task.model().up.weight, task.model().up.weight)
    (first, _), *rest = task.batches("train", 128)
    (again, _), *_ = task.batches("train", 128)
    assert torch.equal(first, again)
    assert len(first) + sum(len(x) for x, _ in rest) == _zoo_models.TRAINING
    assert first.shape[1:] == (3, 16, 16)


def test_warnings_of_parts_that_were_left_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Warned(Net):
        def forward(self, x: Tensor) -> Tensor:
            warnings.warn("something stayed", Left, stacklevel=1)
            return super().forward(x)

    left = outcome(monkeypatch, tmp_path, lambda name: Warned())["left"]
    assert "something stayed" in left
