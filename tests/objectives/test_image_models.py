"""Models of timm and torchvision on a folder of images, where these libraries are installed."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from search import catalogue
from search.checks import check
from search.errors import BadEnvironment, BadExperiment, BadTask
from search.experiment import Experiment, default_for_model
from spaces import Task

MODELS = {"timm": "resnet10t", "torchvision": "mobilenet_v3_small"}


@pytest.fixture(params=MODELS)
def library(request: pytest.FixtureRequest) -> str:
    """A library, or a skipped test where it is missing."""
    try:
        catalogue.find("task", request.param, Task)
    except BadEnvironment as error:
        pytest.skip(str(error))
    return str(request.param)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes of tiny images."""
    for number, name in enumerate(("dark", "light")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            colour = (200 * number, i, i)
            Image.new("RGB", (40, 48), colour).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def network(library: str, classes: int) -> torch.nn.Module:
    if library == "timm":
        import timm

        return timm.create_model(MODELS[library], num_classes=classes)
    import torchvision

    return torchvision.models.get_model(MODELS[library], num_classes=classes)


def weights(library: str, classes: int, file: Path) -> tuple[torch.nn.Module, Path]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network(library, classes).eval()
    torch.save(model.state_dict(), file)
    return model, file


def test_a_checkpoint_and_a_folder_are_a_checked_experiment(
    library: str, photos: Path, tmp_path: Path
) -> None:
    model, file = weights(library, 2, tmp_path / "a.pt")
    named = default_for_model(f"{library}:{MODELS[library]}", photos, file)
    assert Experiment.of(named.to_json(), named.folder).task == named.task
    settings = {"name": MODELS[library], "data": photos, "checkpoint": file, "image_size": 32}
    experiment = Experiment(
        task={library: settings},
        space={"deploy.runtime": {"name": ["null", "eager"]}},
        objectives={"accuracy": {}, "size": {}},
    )
    lines = check.check(experiment)
    assert lines[0].startswith(f"task      {library}:{MODELS[library]}")
    assert any("[1, 3, 32, 32] float32 -> outputs [1, 2]" in line for line in lines)
    assert any("is divided into 60 % train" in line for line in lines)
    assert lines[-1] == "ok"
    loaded = experiment.task.model()
    inputs, _ = next(experiment.task.batches("validation", 2))
    assert torch.equal(loaded(inputs), model(inputs))
    assert inputs.min() < 0  # normalised


def test_without_trained_weights_nothing_is_searched(library: str, photos: Path) -> None:
    with pytest.raises(BadExperiment, match="has no trained weights: give them with --checkpoint"):
        default_for_model(f"{library}:{MODELS[library]}", photos)
    with pytest.raises(BadExperiment, match=r"no (image classifier|model) 'resnet1'; did you mean"):
        default_for_model(f"{library}:resnet1", photos)
    with pytest.raises(BadExperiment, match=r"has no weights 'mine' of resnet18, it has \w+"):
        default_for_model(f"{library}:resnet18.mine", photos)


def test_classes_that_are_not_the_models_are_told_before_a_download(
    library: str, photos: Path, tmp_path: Path
) -> None:
    tag = {"timm": "resnet18.a1_in1k", "torchvision": "resnet18.DEFAULT"}[library]
    with pytest.raises(BadTask, match=r"has 1000 classes and .* has 2 classes \(dark, light\)"):
        check.inspect_model(default_for_model(f"{library}:{tag}", photos))
    _, file = weights(library, 3, tmp_path / "b.pt")
    with pytest.raises(BadTask, match=r"does not fit .* with the 2 classes \(dark, light\)"):
        check.inspect_model(default_for_model(f"{library}:{MODELS[library]}", photos, file))
    with pytest.raises(BadTask, match="there is no folder of images"):
        check.inspect_model(
            default_for_model(f"{library}:{MODELS[library]}", tmp_path / "absent", file)
        )
