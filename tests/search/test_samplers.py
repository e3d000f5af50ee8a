"""What every sampler of the catalogue promises; a new file is tested with no edit here."""

import random
from pathlib import Path

import pytest

from search import catalogue
from search.experiment.reading import space_from
from search.samplers import History, Observation, Sampler, State
from spaces import Point, Space, drawn

SPACE, _ = space_from(
    {
        "prune.channels": {"ratio": {"low": 0.0, "high": 0.7, "step": 0.1}},
        "quantize.integer": {"weight_bits": [32, 8, 4], "activation_bits": [32, 8]},
        "distill.logits": {"temperature": {"low": 1.0, "high": 8.0}, "steps": [0, 50, 200]},
        "deploy.runtime": {"name": ["eager", "onnxruntime"]},
    },
    Path(),
)
STATES: tuple[State, ...] = ("complete", "complete", "complete", "pruned", "failed")


@pytest.fixture(params=catalogue.names("sampler"))
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return catalogue.find("sampler", request.param, Sampler)()


def observed(space: Space, draw: random.Random, state: State) -> Observation:
    point = {name: drawn(dimension, draw) for name, dimension in space.dimensions().items()}
    ratio = float(point["prune.channels.ratio"])
    losses = (ratio**2 - 0.9, 1.0 - ratio) if state == "complete" else None
    violations = (0.0, 1.0 if state == "pruned" and ratio > 0.5 else 0.0)
    return Observation(point=point, state=state, losses=losses, violations=violations)


def history(count: int, *, waiting: int = 0) -> History:
    """Return trials of all states, the last ones under way."""
    draw = random.Random(count)
    told = [observed(SPACE, draw, STATES[i % len(STATES)]) for i in range(count)]
    told += [
        Observation(point=observed(SPACE, draw, "failed").point, state="running")
        for _ in range(waiting)
    ]
    return History(space=SPACE, objectives=2, observations=told)


def holds(point: Point | None) -> bool:
    assert point is not None
    dimensions = SPACE.dimensions()
    return point.keys() == dimensions.keys() and all(
        dimension.holds(point[name]) for name, dimension in dimensions.items()
    )


@pytest.mark.parametrize(("count", "waiting"), [(0, 0), (3, 0), (40, 0), (40, 3), (1, 5)])
def test_a_proposal_is_a_point_of_the_space(sampler: Sampler, count: int, waiting: int) -> None:
    for seed in range(4):
        assert holds(sampler.propose(history(count, waiting=waiting), seed))


def test_the_same_history_and_seed_give_the_same_point(sampler: Sampler) -> None:
    first, second = (sampler.propose(history(30), 7) for _ in range(2))
    assert first == second
    others = {str(sampler.propose(history(30), seed)) for seed in range(8)}
    assert len(others) > 1


def test_it_learns(sampler: Sampler) -> None:
    """Where one runtime alone is good, it is proposed more often than by chance."""
    if not sampler.learns:
        pytest.skip("it does not claim to learn")
    draw, told = random.Random(0), []
    for _ in range(60):
        point = observed(SPACE, draw, "complete").point
        slow = point["deploy.runtime.name"] == "eager"
        told.append(Observation(point=point, state="complete", losses=(float(slow), float(slow))))
    known = History(space=SPACE, objectives=2, observations=told)
    proposals = [sampler.propose(known, seed) for seed in range(24)]
    fast = [p for p in proposals if p and p["deploy.runtime.name"] == "onnxruntime"]
    assert len(fast) >= 17  # by chance one time in thirty at most


def test_settings_out_of_range_are_refused_in_one_line(sampler: Sampler) -> None:
    kind = type(sampler)
    for name in vars(sampler):
        if isinstance(vars(sampler)[name], int) and not isinstance(vars(sampler)[name], bool):
            with pytest.raises(ValueError, match=rf"{name}.*-1|-1.*{name}"):
                kind(**{name: -1})
