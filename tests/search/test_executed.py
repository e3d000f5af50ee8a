"""What an artifact executes stands in its record; a share of zero makes the point infeasible."""

import dataclasses
from pathlib import Path
from typing import Any, cast

from objectives import Execution, Kind, Measurement, Operation
from search.evaluation import TrialContext, evaluate
from search.experiment.experiment import Experiment
from search.measuring import ArtifactMeasurements, Crashed, MeasurementServer
from search.records import Facts, Record
from spaces import Encoding

INTEGERS = Encoding(weight_bits=8, activation_bits=8)
FLOAT = Operation(name="first", kind=Kind.LINEAR, precision="float32", multiply_adds=9)
INTEGER = dataclasses.replace(FLOAT, name="second", precision="int8")


class Server:
    """Stands for the measuring server; everything measures 1."""

    def __init__(self, execution: Execution | None) -> None:
        self.answer = execution

    def ceilings(self, *_: Any, **__: Any) -> Any:
        raise Crashed("no ceilings here")

    def measure(self, experiment: Experiment, artifact: Path, names: list[str], **_: Any) -> Any:
        one = Measurement(value=1.0, unit="u", low=1.0, high=1.0, samples=1)
        return ArtifactMeasurements(
            measurements=dict.fromkeys(names, one),
            placement={},
            conditions={},
            times={},
            reference_times={},
            planned_processes=1,
        )

    def execution(self, experiment: Experiment, artifact: Path, **_: Any) -> Execution | None:
        if self.answer is None:
            raise Crashed("the profiler crashed")
        return self.answer


def evaluated(project: Path, execution: Execution | None) -> Record:
    experiment = Experiment.load(project / "experiment.toml")
    context = TrialContext(
        experiment=experiment,
        folder=project / "run",
        trial=0,
        server=cast(MeasurementServer, Server(execution)),
        progress=lambda *_: None,
    )
    return evaluate(context, experiment.space.neutral())


def test_what_is_executed_stands_in_the_record_with_a_sentence(project: Path) -> None:
    execution = Execution.of([FLOAT, INTEGER], INTEGERS)
    record = evaluated(project, execution)
    assert (record.state, record.facts.execution) == ("complete", execution)
    assert "50 % of the multiply-adds are executed in int8 as asked" in str(record.note)
    assert Record.from_json(record.to_json()) == record


def test_a_share_of_zero_is_infeasible_and_leaves_no_artifact(project: Path) -> None:
    record = evaluated(project, Execution.of([FLOAT], INTEGERS))
    assert (record.state, record.reason) == (
        "infeasible",
        "0 % of the multiply-adds are executed in int8 as asked; not so: first (float32).",
    )
    assert not (project / "run" / "artifacts" / "0").exists()


def test_a_profiler_that_fails_leaves_it_unknown(project: Path) -> None:
    record = evaluated(project, None)
    assert (record.state, record.facts.execution) == ("complete", None)


def test_a_runtimes_own_remark_on_unpacked_weights_is_not_repeated() -> None:
    layer = dataclasses.replace(FLOAT, weight_bits=32)
    execution = Execution.of([layer], Encoding(weight_bits=4))
    assert "unpacked" in Facts(execution=execution).sentences()[0]
    assert Facts(execution=execution, remark="Told.").sentences() == ["Told."]
