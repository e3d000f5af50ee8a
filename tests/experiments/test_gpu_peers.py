"""The comparison with PyTorch's own ways on a GPU, on a processor and with one candidate each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TASK = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)).eval()

def batches(split, batch_size):
    inputs = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model()(inputs).argmax(-1)
    yield from zip(inputs.split(batch_size), labels.split(batch_size))
"""


@pytest.mark.slow
@pytest.mark.ci
def test_candidates_are_timed_in_turns_and_compared_with_the_network(tmp_path: Path) -> None:
    task, out = tmp_path / "task.py", tmp_path / "out.json"
    task.write_text(TASK)
    script = ROOT / "experiments" / "gpu" / "peers.py"
    options = ["--device", "cpu", "--only", "eager float32", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, str(script), str(task), *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(out.read_text())["results"]
    rows = {row["name"]: row for row in result["rows"]}
    assert set(rows) == {
        "ours: eager float32",
        "peer: eager float32",
        "peer: eager float32, channels innermost",
    }
    for row in rows.values():
        assert row["agreement"] == 1.0
        assert row["ms"] > 0
        assert row["name"] in done.stdout
