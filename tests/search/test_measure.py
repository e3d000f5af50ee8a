"""An artifact measured again: in another process and folder, by a runtime that is real."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.executors.local import Local
from search.experiment.experiment import Experiment
from search.study.study import PendingTrial

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "runtime", ["eager", "onnxruntime", pytest.param("openvino", marks=pytest.mark.ci)]
)
def test_another_process_and_folder_measure_the_same(
    project: Path, tmp_path_factory: pytest.TempPathFactory, runtime: str
) -> None:
    text = (project / "experiment.toml").read_text()
    (project / "experiment.toml").write_text(text.replace('["null"]', f'["{runtime}"]'))
    experiment = Experiment.load(project / "experiment.toml")
    run = project / "run"
    run.mkdir()
    point = experiment.space.neutral() | {
        "prune.channels.ratio": 0.25,
        "quantize.integer.weight_bits": 8,
        "quantize.integer.activation_bits": 8,
        "deploy.runtime.name": runtime,
    }
    executor = Local(experiment=experiment, folder=run, cores=1)
    record = executor.evaluate(
        PendingTrial(trial=0, point=point, forced=True), None, lambda *_: None
    )
    assert (record.state, record.reason) == ("complete", None)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    moved = (run / "artifacts" / "0").rename(elsewhere / "model")
    done = subprocess.run(
        [sys.executable, "-m", "search", "measure", str(moved)],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["measurements"]
    assert measured["accuracy"]["value"] == record.measurements["accuracy"].value
    assert measured["size"]["value"] == record.measurements["size"].value
    # how near latencies come is measured by hand: a busy machine must not fail a test
    assert 0 < measured["latency"]["low"] <= measured["latency"]["high"]
