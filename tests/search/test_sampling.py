"""What a sampler is told: limits, references, partial measurements, and what is acceptable."""

import json
from pathlib import Path
from typing import Any

import pytest
from _answers import answer, opened

from objectives import Direction
from search.records.axis import Axis
from search.records.record import Record
from search.study.sampling import loss_of
from search.study.study import PendingTrial

SPY = '''
import dataclasses
import json
from pathlib import Path

from search.samplers import Sampler

FILE = Path(__file__).with_name("told.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spy(Sampler):
    """Writes down what it is told, and proposes nothing."""

    def propose(self, history, seed):
        points = [o.point for o in history.observations]
        features = history.features(points)
        told = {
            "trained": history.trained, "bounds": history.bounds, "ideal": history.ideal,
            "reference": history.reference, "factors": history.factors,
            "accept": [history.accept(point) for point in points],
            "partial": [o.partial for o in history.observations],
            "deviations": [o.deviations for o in history.observations],
            "seconds": [o.seconds for o in history.observations],
            "states": [o.state for o in history.observations],
            "shape": [len(features.values), len(features.groups)],
        }
        FILE.write_text(json.dumps(told))
        return None
'''


@pytest.fixture
def told(project: Path) -> dict[str, Any]:
    """What a user's sampler is told after the opening of a search with a limit on accuracy."""
    (project / "spy.py").write_text(SPY)
    file = project / "experiment.toml"
    text = 'sampler = "spy.py:Spy"\n' + file.read_text()
    file.write_text(text.replace("[objectives.accuracy]", "[objectives.accuracy]\nwithin = 0.05"))
    study = opened(project)
    while not (project / "told.json").is_file():
        asked = study.ask()
        assert asked is not None
        study.tell(asked, stopped(asked) if asked.trial == 3 else answer(asked))
    return dict(json.loads((project / "told.json").read_text()))


def stopped(asked: PendingTrial) -> Record:
    """Return the record of a trial that was stopped at its probe."""
    record = answer(asked)
    known = {n: m for n, m in record.measurements.items() if n != "accuracy"}
    fields = vars(record) | {"state": "pruned", "reason": "too slow", "measurements": known}
    return Record(**fields | {"seconds": 3.0})


def test_objectives_limits_and_references_are_told_as_losses(told: dict[str, Any]) -> None:
    assert told["trained"] == [True, False, False]
    assert told["bounds"] == [pytest.approx(-0.85), None, None]
    assert told["ideal"] == [pytest.approx(-0.9), None, None]
    assert told["reference"] == [pytest.approx(-0.85), 1.0, 1000.0]  # the unchanged model's
    assert told["factors"] == [False, True, True]


def test_rates_are_told_as_times_and_scores_as_what_is_missing() -> None:
    rate = Axis("throughput", Direction.MAXIMIZE, "samples/s", positive=True)
    assert loss_of(rate, 200.0) == pytest.approx(0.005)
    assert loss_of(rate, 100.0) > loss_of(rate, 200.0)
    assert loss_of(Axis("latency", Direction.MINIMIZE, "ms", positive=True), 2.0) == 2.0
    assert loss_of(Axis("accuracy", Direction.MAXIMIZE, "score"), 0.9) == -0.9


def test_a_stopped_trial_tells_what_was_measured_of_it(told: dict[str, Any]) -> None:
    place = told["seconds"].index(3.0)
    assert told["states"][place] == "pruned"
    accuracy, latency, size = told["partial"][place]
    assert accuracy is None
    assert latency > 0
    assert size > 0
    assert told["deviations"][place] == [None, 0.0, 0.0]


def test_known_points_are_not_acceptable_and_all_have_features(told: dict[str, Any]) -> None:
    assert not any(told["accept"])
    assert told["shape"][0] == len(told["states"])
    assert told["shape"][1] > 5
