"""What the structural sampler promises beside the contract of all samplers."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray

from search.samplers import Features, History, Observation
from search.samplers.structural import Parameters, Structural, factory
from search.samplers.structural.improvement import Outlook, improvement
from search.samplers.structural.kernel import GroupKernel
from search.samplers.structural.problem import Problem
from spaces import Choice, Point, drawn

GRID = tuple(range(8))
SPACE = Parameters(
    ranges={"ratio": Choice(GRID), "runtime": Choice(("fast", "slow")), "steps": Choice((0, 1, 2))}
)


def losses(point: Point) -> tuple[float, float]:
    """Return an error and a time that oppose each other; training lowers the error alone."""
    ratio = float(point["ratio"]) / 7
    error = 0.1 + ratio**2 * (0.4 - 0.15 * float(point["steps"]))
    return error, (2.0 - ratio) * (1.0 if point["runtime"] == "fast" else 3.0)


def observed(point: Point) -> Observation:
    return Observation(point=point, state="complete", losses=losses(point))


def points(count: int, seed: int = 0) -> list[Point]:
    """Return distinct points of the space in random order."""
    everything = itertools.product(*(d.values() or () for d in SPACE.ranges.values()))
    known = [dict(zip(SPACE.ranges, values, strict=True)) for values in everything]
    return random.Random(seed).sample(known, count)


def history(told: Sequence[Observation], **more: object) -> History:
    return History(space=SPACE, objectives=2, observations=told, **more)  # type: ignore[arg-type]


TOLD = [observed(point) for point in points(12)]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("ideal", [-math.inf, 0.4])
@pytest.mark.parametrize("front", [[], [[0.5, 2.0], [1.0, 1.0], [2.0, 0.4]]])
def test_expected_improvement_is_the_mean_of_improvements(
    log: bool, ideal: float, front: list[list[float]]
) -> None:
    mean, deviation, reference = np.array([0.3, 0.6]), np.array([0.5, 0.4]), np.array([3.0, 3.0])
    outlooks = [
        Outlook(mean=np.array([m]), deviation=np.array([d]), log=log, ideal=ideal)
        for m, d in zip(mean, deviation, strict=True)
    ]
    members = np.array(front).reshape(-1, 2)
    exact = improvement(outlooks, members, reference)[0]
    draws = mean + deviation * np.random.default_rng(0).standard_normal((100_000, 2))
    values = np.maximum(np.exp(draws) if log else draws, ideal)
    assert exact == pytest.approx(gained(values, members, reference).mean(), rel=0.03)


def gained(
    values: NDArray[np.float64], front: NDArray[np.float64], reference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the area that each of `values` adds to a front of two objectives, step by step."""
    steps = front[np.argsort(front[:, 0])]
    starts = [-math.inf, *steps[:, 0]]
    stops = [*steps[:, 0], reference[0]]
    tops = [reference[1], *steps[:, 1]]
    areas = [
        np.maximum(stop - np.maximum(values[:, 0], start), 0.0) * np.maximum(top - values[:, 1], 0)
        for start, stop, top in zip(starts, stops, tops, strict=True)
    ]
    return np.asarray(np.sum(areas, axis=0))


def test_three_objectives_agree_with_two_where_the_third_is_sure() -> None:
    two = [
        Outlook(mean=np.array([0.3, 0.9]), deviation=np.array([0.3, 0.2]), log=False),
        Outlook(mean=np.array([0.5, 0.2]), deviation=np.array([0.3, 0.2]), log=False),
    ]
    sure = Outlook(mean=np.zeros(2), deviation=np.full(2, 1e-6), log=False)
    front = np.array([[0.5, 1.0], [1.0, 0.5]])
    flat = improvement(two, front, np.array([2.0, 2.0]))
    deep = improvement(
        [*two, sure], np.column_stack([front, np.zeros(2)]), np.array([2.0, 2.0, 1.0])
    )
    assert deep == pytest.approx(flat, rel=0.05)


def test_gains_beyond_the_ideal_are_not_sought() -> None:
    """Of two errors the lower one is below the ideal; time alone is left to gain."""
    ideal = (losses(TOLD[0].point)[0], None)
    cheap = history(TOLD, ideal=ideal, factors=(False, True), reference=(0.6, 6.0))
    proposal = Structural(startup=4, cost_exponent=0.0).propose(cheap, 0)
    assert proposal is not None
    front = [p for p in (o.point for o in TOLD) if not any(dominates(q.point, p) for q in TOLD)]
    fastest = min(losses(p)[1] for p in front if losses(p)[0] <= ideal[0])
    assert losses(proposal)[0] > ideal[0] or losses(proposal)[1] < fastest


def test_the_gradient_of_the_kernel_is_that_of_finite_differences() -> None:
    draw = np.random.default_rng(0)
    features, scales = draw.normal(size=(6, 5)), draw.uniform(0.5, 2.0, size=6)
    kernel = GroupKernel(ends=(2, 5), scales=scales)
    covariance, gradient = kernel(features, eval_gradient=True)
    assert covariance == pytest.approx(kernel(features))
    assert np.diagonal(covariance) == pytest.approx(kernel.diag(features) + scales[-1])
    for place in range(len(scales)):
        step = np.zeros(len(scales))
        step[place] = 1e-6
        above = GroupKernel(ends=(2, 5), scales=scales * np.exp(step))(features)
        below = GroupKernel(ends=(2, 5), scales=scales * np.exp(-step))(features)
        assert gradient[:, :, place] == pytest.approx((above - below) / 2e-6, abs=1e-6)


def test_the_first_points_are_corners() -> None:
    first = Structural().propose(history([]), 0)
    assert first == {"ratio": 0, "runtime": "fast", "steps": 0}
    second = Structural().propose(history([observed(first)]), 1)
    assert second == {"ratio": 7, "runtime": "slow", "steps": 2}


def test_it_finds_the_front_sooner_than_chance() -> None:
    """Half of the points hold the front of 48 by chance in one search of thousands at most."""
    everything = points(48)
    best = {str(p) for p in everything if not any(dominates(q, p) for q in everything)}
    told: list[Observation] = []
    while len(told) < 24:
        point = Structural().propose(history(told), len(told))
        assert point is not None
        told.append(observed(point))
    assert best <= {str(dict(sorted_point(o.point))) for o in told}


def sorted_point(point: Point) -> list[tuple[str, object]]:
    return [(name, point[name]) for name in SPACE.ranges]


def dominates(left: Point, right: Point) -> bool:
    pairs = list(zip(losses(left), losses(right), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def test_all_points_are_proposed_once_and_then_nothing_is() -> None:
    told = [observed(point) for point in points(46)]
    for seed in range(2):
        point = Structural().propose(history(told), seed)
        assert point is not None
        assert all(o.point != point for o in told)
        told.append(observed(point))
    assert Structural().propose(history(told), 2) is None


def test_only_acceptable_points_are_proposed() -> None:
    accept: Callable[[Point], bool] = lambda point: point["steps"] == 1  # noqa: E731
    for told in (TOLD, []):
        point = Structural().propose(history(told, accept=accept), 0)
        assert point is not None
        assert point["steps"] == 1
    assert Structural().propose(history(TOLD, accept=lambda point: False), 0) is None


def test_pending_points_are_believed() -> None:
    first = Structural().propose(history(TOLD), 0)
    assert first is not None
    problem = Problem.of(history(TOLD))
    pending = Problem.of(history([*TOLD, Observation(point=first, state="running")]))
    assert problem is not None
    assert pending is not None
    assert pending.scores([first], 0.0)[0] < 0.05 * problem.scores([first], 0.0)[0]


def features(some: Sequence[Point]) -> Features:
    rows = [[float(p["ratio"]), float(p["runtime"] == "slow"), float(p["steps"])] for p in some]
    return Features(
        values=np.array(rows), groups=("ratio", "runtime", "steps"), training=frozenset({"steps"})
    )


def test_a_time_is_known_at_points_that_differ_in_training_alone() -> None:
    told = [observed(p) for p in points(30) if p["steps"] != 2]
    problem = Problem.of(history(told, features=features, trained=(True, False)))
    assert problem is not None
    siblings = [o.point | {"steps": 2} for o in told]
    _, time = (m.predict(problem.encoder(siblings)) for m in problem.models)
    mean, deviation = time
    assert np.exp(mean) == pytest.approx([losses(p)[1] for p in siblings], rel=0.03)
    assert deviation.max() < 0.1 * mean.std()


def test_a_stopped_trial_teaches_what_was_measured() -> None:
    stopped = Observation(point=points(13)[12], state="pruned", partial=(None, 0.01))
    plain, taught = Problem.of(history(TOLD)), Problem.of(history([*TOLD, stopped]))
    assert plain is not None
    assert taught is not None
    (before, _), (after, _) = (
        p.models[1].predict(p.encoder([stopped.point])) for p in (plain, taught)
    )
    assert after[0] < before[0]


def test_noise_is_not_learnt() -> None:
    outlier = Observation(
        point=TOLD[0].point, state="complete", losses=(5.0, 1.0), deviations=(50.0, None)
    )
    problem = Problem.of(history([*TOLD, outlier]))
    assert problem is not None
    mean, _ = problem.models[0].predict(problem.encoder([outlier.point]))
    assert np.exp(mean[0]) == pytest.approx((TOLD[0].losses or (0,))[0], rel=0.2)


def test_what_breaks_a_bound_is_not_proposed() -> None:
    for seed in range(4):
        point = Structural().propose(history(TOLD, bounds=(0.2, None)), seed)
        assert point is not None
        assert losses(point)[0] <= 0.22


def test_where_trials_failed_fewer_are_proposed() -> None:
    failed = [Observation(point=p, state="failed") for p in points(48) if p["runtime"] == "fast"]
    told = [o for o in TOLD if o.point["runtime"] == "slow"]
    told += [observed(p) for p in points(48) if p["runtime"] == "slow"][:8]
    point = Structural(startup=1).propose(history([*told, *failed[::2]]), 0)
    assert point is not None
    assert point["runtime"] == "slow"


def test_an_improvement_is_weighed_by_its_seconds() -> None:
    slow = [
        Observation(
            point=o.point,
            state="complete",
            losses=o.losses,
            seconds=10.0 ** float(o.point["steps"]),
        )
        for o in TOLD
    ]
    some = [p for p in points(48) if p["steps"] != 1]
    problem = Problem.of(history(slow))
    assert problem is not None
    ratio = problem.scores(some, 0.0) / np.maximum(problem.scores(some, 1.0), 1e-300)
    trained = np.array([p["steps"] == 2 for p in some])
    assert np.median(ratio[trained]) > 10 * np.median(ratio[~trained])


def test_without_a_pattern_another_sampler_proposes_and_says_so() -> None:
    draw = random.Random(0)
    told = [observed(point) for point in points(40)]
    assert Structural().remark(history(told)) is None
    outcomes = draw.sample([o.losses for o in told], len(told))
    shuffled = [
        Observation(point=o.point, state="complete", losses=outcome)
        for o, outcome in zip(told, outcomes, strict=True)
    ]
    sentence = Structural().remark(history(shuffled))
    assert sentence is not None
    assert "TPE proposes" in sentence
    assert Structural().propose(history(shuffled), 0) is not None


def test_equal_histories_have_equal_proposals() -> None:
    wide = Parameters(ranges={f"layer_{i}": Choice((0.0, 0.25, 0.5, 0.75)) for i in range(10)})
    draw = random.Random(0)
    told = []
    for _ in range(12):
        point = {name: drawn(d, draw) for name, d in wide.ranges.items()}
        total = sum(map(float, point.values()))
        told.append(Observation(point=point, state="complete", losses=(1 + total, 9 - total / 2)))
    known = History(space=wide, objectives=2, observations=told)
    first, again, other = (Structural().propose(known, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


SUGGESTED = {"ratio": list(GRID), "runtime": ["fast", "slow"], "steps": [0, 1, 2]}


def objective(trial: optuna.Trial) -> tuple[float, float]:
    point: Point = {
        "ratio": trial.suggest_int("ratio", 0, 7),
        "runtime": trial.suggest_categorical("runtime", ["fast", "slow"]),
        "steps": trial.suggest_categorical("steps", [0, 1, 2]),
    }
    error, time = losses(point)
    trial.set_constraint("error", error - 0.3)
    return 1.0 - error, time


@pytest.mark.parametrize("workers", [1, 3])
def test_an_optuna_study_takes_it(workers: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=factory(0, SUGGESTED))
    study.optimize(objective, n_trials=16, n_jobs=workers)
    seen = [str(sorted(t.params.items())) for t in study.trials]
    assert len(set(seen)) == len(seen)
    kept = [max(t.constraints.values()) <= 0 for t in study.trials]
    assert sum(kept[8:]) >= 6  # by chance of 48 points about half


def test_an_optuna_study_asks_and_tells_it_in_parallel() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=factory(1, SUGGESTED))
    distributions = {
        name: optuna.distributions.CategoricalDistribution(values)
        for name, values in SUGGESTED.items()
    }
    for _ in range(4):
        with ThreadPoolExecutor(4) as pool:
            asked = list(pool.map(lambda _: study.ask(distributions), range(4)))
        assert len({str(trial.params) for trial in asked}) == 4
        for trial in asked:
            study.tell(trial, losses(trial.params))


@pytest.mark.parametrize("directions", [1, 3])
def test_an_optuna_study_of_other_numbers_of_objectives(directions: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * directions, sampler=factory(0, SUGGESTED))

    def several(trial: optuna.Trial) -> tuple[float, ...]:
        error, time = objective(trial)
        return (time - error, time, error)[:directions]

    study.optimize(several, n_trials=14)
    assert len({str(t.params) for t in study.trials}) == 14
