"""What one impossible trial says of others: as much as follows from it, and no more."""

import dataclasses
from pathlib import Path

import pytest
from _answers import answer

from search.experiment.experiment import Experiment
from search.records import Facts, Impossible, Record
from search.study.known_impossible import implied
from search.study.study import PendingTrial, Study
from spaces import Point, Scope
from spaces.space import Space

EXPERIMENT = """
name = "tiny"
trials = 30
[task.python]
file = "task.py"
[space.prune.layers]
count = [0, 1, 2]
[space.prune.channels]
ratio = [0.0, 0.25, 0.5]
[space.quantize.integer]
weight_bits = [32, 8]
activation_bits = [32, 8]
[space.distill.logits]
steps = [0, 3, 9]
[space.deploy.runtime]
name = ["eager", "null"]
[objectives.accuracy]
[objectives.latency]
[objectives.size]
"""


@pytest.fixture
def experiment(project: Path) -> Experiment:
    (project / "experiment.toml").write_text(EXPERIMENT)
    return Experiment.load(project / "experiment.toml")


def at(
    layers: int = 0, ratio: float = 0.0, bits: int = 32, steps: int = 0, runtime: str = "eager"
) -> Point:
    return {
        "prune.layers.count": layers,
        "prune.channels.ratio": ratio,
        "quantize.integer.weight_bits": bits,
        "quantize.integer.activation_bits": bits,
        "distill.logits.steps": steps,
        "deploy.runtime.name": runtime,
    }


def tried(
    point: Point, stage: str, technique: str | None = None, scope: Scope = Scope.POINT
) -> Record:
    facts = Facts(impossible=Impossible(stage=stage, technique=technique, scope=scope))
    runtime = str(point["deploy.runtime.name"])
    return Record(
        trial=1,
        point=point,
        runtime=runtime,
        state="infeasible",
        reason="it is not possible",
        facts=facts,
    )


def follows(space: Space, record: Record, **point: object) -> bool:
    found = implied(space, [record], space.neutral() | at(**point))  # type: ignore[arg-type]
    assert found in (None, "it is not possible")
    return found is not None


def test_an_edit_that_failed_fails_in_every_runtime_encoding_and_training(
    experiment: Experiment,
) -> None:
    record = tried(experiment.space.neutral() | at(ratio=0.5), "shape", "prune.channels")
    assert follows(experiment.space, record, ratio=0.5, bits=8, steps=9, runtime="null")
    assert not follows(experiment.space, record, ratio=0.25)
    assert not follows(experiment.space, record)
    assert not follows(experiment.space, record, ratio=0.5, layers=1)  # of another model


def test_a_first_edit_that_failed_fails_whatever_would_follow(experiment: Experiment) -> None:
    record = tried(experiment.space.neutral() | at(layers=2, ratio=0.5), "shape", "prune.layers")
    assert follows(experiment.space, record, layers=2)
    assert follows(experiment.space, record, layers=2, ratio=0.25)
    assert not follows(experiment.space, record, layers=1, ratio=0.5)


def test_a_technique_without_a_hold_on_the_model_is_given_up_at_any_strength(
    experiment: Experiment,
) -> None:
    point = experiment.space.neutral() | at(ratio=0.5)
    record = tried(point, "shape", "prune.channels", Scope.TECHNIQUE)
    assert follows(experiment.space, record, ratio=0.25, runtime="null")
    assert not follows(experiment.space, record, bits=8)
    assert not follows(experiment.space, record, ratio=0.25, layers=1)


def test_a_runtime_that_cannot_take_the_unchanged_model_is_given_up(
    experiment: Experiment,
) -> None:
    point = experiment.space.neutral() | at(runtime="null")
    record = tried(point, "probe", scope=Scope.RUNTIME)
    assert follows(experiment.space, record, runtime="null", bits=8, ratio=0.5, steps=3)
    assert not follows(experiment.space, record, bits=8)
    pruned = tried(point | {"prune.channels.ratio": 0.5}, "probe", scope=Scope.RUNTIME)
    assert follows(experiment.space, pruned, runtime="null", ratio=0.5, steps=3)
    assert not follows(experiment.space, pruned, runtime="null", ratio=0.25)


def test_an_export_that_failed_fails_again_before_any_training(experiment: Experiment) -> None:
    record = tried(experiment.space.neutral() | at(bits=8, runtime="null"), "probe")
    assert follows(experiment.space, record, bits=8, steps=9, runtime="null")
    assert not follows(experiment.space, record, runtime="null")
    assert not follows(experiment.space, record, bits=8)
    assert not follows(experiment.space, record, bits=8, ratio=0.25, runtime="null")


def test_training_that_is_not_possible_is_not_possible_elsewhere(experiment: Experiment) -> None:
    point = experiment.space.neutral() | at(steps=3)
    assert follows(experiment.space, tried(point, "train"), steps=3, runtime="null")
    assert not follows(experiment.space, tried(point, "train"), steps=9)
    never = tried(point, "train", scope=Scope.TECHNIQUE)
    assert follows(experiment.space, never, steps=9)
    assert not follows(experiment.space, never)


def test_what_measuring_meets_says_nothing_of_others(experiment: Experiment) -> None:
    record = tried(experiment.space.neutral() | at(bits=8), "measure")
    assert not follows(experiment.space, record, bits=8, steps=3)


def test_a_study_asks_no_point_that_a_trial_ruled_out_also_after_a_restart(
    project: Path, experiment: Experiment
) -> None:
    run = project / "run"
    run.mkdir()

    def found(asked: PendingTrial) -> Record:
        if asked.point["deploy.runtime.name"] != "null":
            return answer(asked)
        return dataclasses.replace(
            tried(asked.point, "probe", scope=Scope.RUNTIME), trial=asked.trial
        )

    asked_in = []
    for _ in range(3):
        study = Study.open(run, experiment, lambda point: None)
        for _ in range(6):
            asked = study.ask()
            assert asked is not None
            asked_in.append(asked.point["deploy.runtime.name"])
            study.tell(asked, found(asked))
    assert asked_in.count("null") == 1  # its baseline
    ruled_out = [r for r in study.records if r.state == "infeasible"]
    assert len(ruled_out) > 1
    assert {r.reason for r in ruled_out} == {"it is not possible"}
