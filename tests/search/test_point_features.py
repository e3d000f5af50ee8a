"""What a sampler is told of points: the same for the same build, and what is known of shapes."""

from pathlib import Path

import numpy as np
import pytest
from _answers import measured

from search.experiment.goals import goals_of
from search.experiment.reading import space_from
from search.records.facts import Facts
from search.records.record import Record
from search.samplers import Features
from search.study.features import LEAST, Describer, Known
from spaces import Point

SPACE, _ = space_from(
    {
        "prune.channels": {"ratio": {"low": 0.0, "high": 0.6, "step": 0.1}},
        "quantize.integer": {"weight_bits": [32, 8, 4], "activation_bits": [32, 8]},
        "distill.logits": {"temperature": [1.0, 4.0], "steps": [0, 50, 200]},
        "precision.compute": {"dtype": ["float32", "bfloat16"]},
        "deploy.runtime": {"name": ["eager", "onnxruntime"]},
    },
    Path(),
)
GOALS = goals_of({"accuracy": {}, "latency": {}}, Path())


def point(ratio: float = 0.0, **values: object) -> Point:
    names = {"steps": "distill.logits.steps", "bits": "quantize.integer.weight_bits"}
    settings = {names[k]: v for k, v in values.items()}
    return SPACE.canonical(SPACE.neutral() | {"prune.channels.ratio": ratio} | settings)


def record(
    trial: int, ratio: float, accuracy: float, removed: float, latency: float = 1.0
) -> Record:
    return Record(
        trial=trial,
        point=point(ratio),
        runtime="eager",
        state="complete",
        measurements={"accuracy": measured(accuracy, "score"), "latency": measured(latency, "ms")},
        facts=Facts(weights_removed=removed, work={"operations": 1000 * (1 - removed)}),
    )


def described(*points: Point, records: tuple[Record, ...] = ()) -> Features:
    return Describer(SPACE).describe(points, Known.of(SPACE, records, GOALS))


def part(features: Features, *groups: str) -> np.ndarray:
    return features.values[:, [g in groups for g in features.groups]]


def test_features_are_finite_numbers_in_named_groups() -> None:
    points = [point(), point(0.3, bits=4), point(0.6, steps=200)]
    features = described(*points, records=(record(0, 0.0, 0.9, 0.0), record(1, 0.6, 0.2, 0.5)))
    assert features.values.shape == (3, len(features.groups))
    assert np.isfinite(features.values).all()
    assert features.minor <= set(features.groups)
    assert features.training <= set(features.groups)
    assert {"shape", "left", "bits", "runtime", "recovery", "untrained"} <= set(features.groups)


def test_training_changes_groups_of_training_alone() -> None:
    features = described(point(0.3), point(0.3, steps=200))
    rest = [g for g in features.groups if g not in features.training]
    assert np.ptp(part(features, *rest), axis=0).max() == 0
    assert np.ptp(part(features, "recovery"), axis=0).max() > 0


def test_a_built_shape_tells_what_is_left_and_a_point_between_two_lies_between_them() -> None:
    records = (record(0, 0.0, 0.9, 0.0), record(1, 0.6, 0.2, 0.5))
    features = described(point(), point(0.3), point(0.6), records=records)
    left = part(features, "left")[:, -2]  # of weights, the last is that of operations
    assert left[0] == pytest.approx(0.0, abs=1e-6)
    assert left[2] == pytest.approx(np.log(0.5), abs=1e-6)
    assert left[2] < left[1] < left[0]
    untrained = part(features, "untrained")[:, 0]
    assert untrained[2] == pytest.approx(np.log(0.7 + LEAST), abs=1e-6)  # beyond the unchanged
    assert untrained[0] < untrained[1] < untrained[2]


def test_a_probed_point_tells_the_time_of_its_trained_siblings() -> None:
    records = (record(0, 0.0, 0.9, 0.0, 2.0), record(1, 0.6, 0.2, 0.5, 1.1))
    features = described(point(0.6, steps=200), point(0.3), records=records)
    times = part(features, "time")[:, 0]
    assert times[0] == pytest.approx(np.log(1.1), abs=1e-3)
    assert np.log(1.1) < times[1] < np.log(2.0)


def test_unused_dimensions_change_nothing() -> None:
    plain = SPACE.neutral()
    features = described(plain, plain | {"distill.logits.temperature": 4.0})
    assert np.ptp(features.values, axis=0).max() == 0
