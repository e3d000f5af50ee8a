"""What a model in training is taken to score at a rung."""

from pathlib import Path

import pytest
import torch

from objectives.examples import read
from search.evaluation.estimate import estimate_scores
from search.experiment.experiment import Experiment

GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_it_is_the_score_of_the_model_where_it_is(project: Path, device: str) -> None:
    experiment = Experiment.load(project / "experiment.toml")
    task = experiment.task
    model, examples = task.model().to(device).train(), read(task, "validation")
    with torch.inference_mode():
        score = task.score(model(examples.inputs.to(device)).cpu(), examples.targets)
    found = estimate_scores(experiment, model, examples, project / "artifact")
    assert set(found) == {"accuracy"}
    assert found["accuracy"].value == pytest.approx(score)
    assert model.training
    assert next(model.parameters()).device.type == device
