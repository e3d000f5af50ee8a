"""What every runtime and objective of the catalogue promises; a new file needs no edit here."""

import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from _runtimes import INTEGERS, Images, Tiny, asked, ship, truth

from objectives import Execution, Measurement, Objective, Runtime, Target, TimedObjective, read
from objectives.tasks.digits import Digits
from search import catalogue
from search.errors import BadEnvironment
from spaces import Encoding, Space
from spaces.modules import flatten


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wider(Encoding):
    """An encoding with a field that no runtime knows yet."""

    outlier_channels: int = 0


@pytest.fixture(params=catalogue.names("runtime"))
def runtime(request: pytest.FixtureRequest) -> Runtime:
    try:
        return catalogue.find("runtime", request.param, Runtime)()
    except BadEnvironment as error:  # its packages are an extra
        pytest.skip(str(error))


@pytest.fixture(params=catalogue.names("objective"))
def objective(request: pytest.FixtureRequest) -> Objective:
    return catalogue.find("objective", request.param, Objective)()


def test_what_a_runtime_does_not_know_of_an_encoding_is_refused(runtime: Runtime) -> None:
    assert runtime.overlooks(Wider()) is None
    reason = runtime.overlooks(Wider(outlier_channels=4))
    name = type(runtime).__name__.lower()
    assert reason == f"the runtime {name} does not know outlier_channels = 4 of an encoding"


def test_a_runtime_reads_fields_of_an_encoding_alone(runtime: Runtime) -> None:
    assert runtime.reads <= {f.name for f in dataclasses.fields(Encoding)}


def test_the_neutral_artifact_computes_what_the_model_does(
    runtime: Runtime, tmp_path: Path
) -> None:
    target = Target(batch_size=2)
    if reason := runtime.refuses(Encoding(), target, frozenset({"Conv2d", "Linear"})):
        pytest.skip(reason)
    task = Tiny(Images)
    with ship(runtime, task, tmp_path / "artifact", target=target) as program:
        inputs, expected = truth(task, 5)
        assert torch.allclose(program(inputs), expected, atol=1e-4)
        example = flatten(truth(task, 2)[0])[0]
        assert program.seconds(program.feed(example)) > 0
        operations = program.operations(program.feed(example))
    assert operations is not None
    execution = Execution.of(operations, Encoding())
    assert (execution.share, execution.others) == (1.0, ())


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_integers_are_executed_as_asked_on_the_digits(name: str, tmp_path: Path) -> None:
    runtime, task, encoding = catalogue.find("runtime", name, Runtime)(), Digits(), INTEGERS
    export = asked(task, tmp_path, encoding, Target())
    export = dataclasses.replace(export, calibration=export.calibration[:16])
    notes = runtime.export(export)
    with runtime.load(tmp_path, export.signature, export.target, task, notes) as program:
        example = flatten(export.example)[0]
        operations = program.operations(program.feed(example))
    assert operations is not None
    execution = Execution.of(operations, encoding)
    assert execution.share is not None
    assert execution.share > 0.9
    assert execution.shortfall() is None
    assert execution.parts


def test_an_objective_measures_an_artifact(objective: Objective, tmp_path: Path) -> None:
    task, target = Tiny(Images), Target(batch_size=2)
    null = catalogue.find("runtime", "null", Runtime)()
    if reason := objective.refuses(target, frozenset()):
        pytest.skip(reason)
    if objective.apart:
        pytest.skip("it is measured in processes of its own: test_placement.py")
    quick = dataclasses.replace(objective, **({"seconds": 0.01} if timed(objective) else {}))
    examples = dataclasses.replace(read(task, "validation"), score=lambda *_: 0.5)
    with ship(null, task, tmp_path / "artifact", target=target) as program:
        measurement = quick.measure(program, examples)
    assert isinstance(measurement, Measurement)
    assert measurement.unit == objective.unit
    assert measurement.low <= measurement.value <= measurement.high
    assert not objective.positive or measurement.value > 0


def timed(objective: Objective) -> bool:
    return isinstance(objective, TimedObjective)


def test_words_of_an_objective_are_complete(objective: Objective) -> None:
    assert objective.unit
    if objective.better is not None:
        assert len(objective.better) == 2
        assert objective.positive  # a gain is a factor
    assert objective.superlative is None or " " not in objective.superlative


def test_a_bare_runtime_heading_means_all_usual_ones() -> None:
    from search.experiment.reading import space_from

    space: Space = space_from({"deploy.runtime": {}}, Path())[0]
    (dimension,) = space.dimensions().values()
    named = set(dimension.values() or ())
    find = functools.partial(catalogue.find, "runtime", base=Runtime)
    assert named == {name for name in named if find(name).usual}
    assert named >= {"eager", "inductor", "onnxruntime", "openvino"}


def test_a_bare_runtime_heading_leaves_out_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(kind: str, name: str, folder: Path | None = None) -> type[object]:
        if name == "openvino":
            raise BadEnvironment("the runtime 'openvino' needs the package 'openvino'")
        return found(kind, name, folder)

    from search.experiment.reading import space_from

    found = catalogue.entry
    monkeypatch.setattr(catalogue, "entry", missing)
    (dimension,) = space_from({"deploy.runtime": {}}, Path())[0].dimensions().values()
    assert "eager" in (dimension.values() or ())
    assert "openvino" not in (dimension.values() or ())
