"""The study as Ray Tune sees it, without a cluster: turns, losses, and that all asked is told."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
from _answers import answer, measured, opened
from optuna.trial import TrialState

from search.executors import _ray_cluster, _ray_searcher  # isort: skip

import ray
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError
from ray.tune.search import Searcher

from search.errors import BadEnvironment
from search.executors._process import Killed
from search.executors._ray_losses import CRASHED, NO_MACHINE, NO_MEMORY, reason_of
from search.executors._ray_searcher import Asking, Stopping
from search.executors._shipping import Station
from search.executors.ray_tune import RayTune
from search.experiment import Experiment
from search.feed import Feed
from search.rungs import Rung
from search.signals import Stopped
from search.study import Asked, Study
from spaces import Placement, Plan

PLACED = '[space.placement.devices]\ncount = [1, 2]\nstrategy = ["auto", "data"]\n'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that gives whatever is asked."""

    experiment: Experiment
    refusal: str | None = None

    def config(self, asked: Asked, avoid: str | None) -> dict[str, Any]:
        return {"trial": asked.trial, "point": asked.point, "avoid": avoid}

    def refuses(self, plan: Plan, avoid: str | None = None) -> str | None:
        del plan, avoid
        return self.refusal


class Points(Feed):
    """A feed of given points."""

    def __init__(self, study: Study, points: list[dict[str, Any]]) -> None:
        super().__init__(
            study,
            seconds=None,
            told=lambda record: None,
            started=lambda asked: None,
            progress=lambda *message: None,
        )
        self._points = [Asked(trial=i, point=p, forced=False) for i, p in enumerate(points)]

    def ask(self) -> Asked | None:
        return self._points.pop(0) if self._points else None


def searching(study: Study, **callbacks: Any) -> tuple[Asking, Feed]:
    """Return a searcher of a study, and the feed between them."""
    silent: dict[str, Any] = {
        "told": lambda record: None,
        "started": lambda asked: None,
        "progress": lambda *message: None,
    }
    feed = Feed(study, seconds=None, **silent | callbacks)
    return Asking(feed, Cluster(experiment=study.experiment)), feed


def trials(project: Path) -> list[optuna.trial.FrozenTrial]:
    """Return what the study's file holds."""
    study = optuna.load_study(
        study_name="tiny", storage=f"sqlite:///{project / 'run' / 'study.db'}"
    )
    return study.get_trials()


def said(**message: Any) -> dict[str, Any]:
    return {"message": json.dumps(message)}


def config_of(searcher: Asking, name: str) -> dict[str, Any]:
    """Return what the searcher suggests as the trial `name`."""
    config = searcher.suggest(name)
    assert isinstance(config, dict)
    return config


def test_a_large_point_gets_its_turn_before_small_ones_that_keep_coming(project: Path) -> None:
    file = project / "experiment.toml"
    file.write_text(file.read_text().replace("[space.deploy", PLACED + "[space.deploy"))
    study = opened(project, parallel=True)
    small = study.experiment.space.neutral()
    large = small | {"placement.devices.count": 2}
    searcher = Asking(Points(study, [small, large, small]), Cluster(experiment=study.experiment))
    assert config_of(searcher, "a")["point"] == small
    assert config_of(searcher, "b")["point"] == large  # a small one that waits holds nobody up
    searcher.started("a")
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", error=True)  # a small one's place is free
    assert searcher.suggest("c") is None
    searcher.started("b")
    assert config_of(searcher, "c")["point"] == small


def test_a_large_point_that_ends_before_it_starts_holds_nobody_up(project: Path) -> None:
    file = project / "experiment.toml"
    file.write_text(file.read_text().replace("[space.deploy", PLACED + "[space.deploy"))
    study = opened(project, parallel=True)
    small = study.experiment.space.neutral()
    large = small | {"placement.devices.count": 2}
    searcher = Asking(Points(study, [large, small]), Cluster(experiment=study.experiment))
    config_of(searcher, "a")
    searcher.on_trial_complete("a", error=True)
    assert config_of(searcher, "b")["point"] == small


def test_every_way_to_end_is_told_to_the_study(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ray_searcher, "PAUSE", 0.0)
    study = opened(project, 4, parallel=True)
    searcher, feed = searching(study)
    configs = {name: config_of(searcher, name) for name in ("done", "behind", "broken", "lost")}
    own = {"latency": measured(9.0, "ms"), "accuracy": measured(0.1, "score")}
    rung = Rung(name="50% of training", found=own)
    monkeypatch.setattr(feed, "judge", lambda asked, rung: f"behind after {rung.name}")
    behind = said(rung=rung.to_json())
    assert Stopping(searcher).on_trial_result(None, Named("behind"), behind) == "STOP"
    searcher.on_trial_complete("behind", behind)
    number, point = configs["done"]["trial"], configs["done"]["point"]
    record = answer(Asked(trial=number, point=point, forced=True))
    searcher.on_trial_complete("done", said(result=record.to_json()))
    searcher.on_trial_complete("broken", said(failed="ValueError: no weights here"))
    for name in ("lost", "again"):
        searcher.on_trial_result(name, said(machine="one", worker=name))
        searcher.fell(name, task_error(Killed("its process was killed")))
        searcher.on_trial_complete(name, error=True)
        if name == "lost":
            assert config_of(searcher, "again") == configs["lost"] | {"avoid": "one"}
    assert searcher.suggest("none") == Searcher.FINISHED
    told = {t.number: t for t in trials(project)}
    assert {t.state for t in told.values()} == {
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
    }
    pruned = told[configs["behind"]["trial"]]
    assert (pruned.state, pruned.values) == (TrialState.PRUNED, None)
    reasons = {r.trial: r.reason for r in study.records}
    assert reasons[configs["behind"]["trial"]] == "behind after 50% of training"
    assert reasons[configs["broken"]["trial"]] == "ValueError: no weights here"
    assert reasons[configs["lost"]["trial"]] == "its process was killed, twice"
    kept = next(r for r in study.records if r.trial == pruned.number)
    assert set(kept.measurements) == {"latency"}  # a score on the way is an estimate


@dataclasses.dataclass(frozen=True)
class Named:
    """As much of a trial of Tune's as the scheduler looks at."""

    trial_id: str


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("step", "Traceback\nExplained: here", cause)


def test_an_interrupted_search_leaves_no_trial_running(project: Path) -> None:
    def interrupt(*message: Any) -> None:
        raise Stopped(signal.SIGINT)

    study = opened(project, parallel=True)
    searcher, feed = searching(study, progress=interrupt)
    numbers = [config_of(searcher, name)["trial"] for name in ("a", "b")]
    searcher.on_trial_result("a", said(stage="train", done=1, of=9, detail=""))
    assert isinstance(searcher.error, Stopped)
    assert searcher.suggest("c") == Searcher.FINISHED
    result = said(stage="train", done=1, of=9, detail="")
    assert Stopping(searcher).on_trial_result(None, Named("b"), result) == "STOP"
    for name in ("a", "b"):
        searcher.on_trial_complete(name, result)
    feed.close()
    ended = {t.number: t for t in trials(project)}
    assert all(t.state.is_finished() for t in ended.values())
    for number in numbers:
        assert ended[number].state == TrialState.FAIL
        assert ended[number].user_attrs["reason"] == "the search ended before it was evaluated"
    assert study.paid == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (task_error(Killed("its process was killed, most likely")), "its process was killed"),
        (task_error(OSError("disk")), "its worker failed: Explained: here"),
        (OutOfMemoryError("1 worker(s) were killed"), NO_MEMORY),
        ("1 worker(s) were killed due to the node running low on memory. Memory on", NO_MEMORY),
        (NodeDiedError("gone"), NO_MACHINE),
        ("The actor died because its node has died. Node Id: 5ece", NO_MACHINE),
        ("Some common causes include: (1) the process was killed by the OOM killer", CRASHED),
        (ActorDiedError(), CRASHED),
        (None, CRASHED),
    ],
)
def test_a_loss_is_told_by_its_one_reason(error: Any, reason: str) -> None:
    assert reason_of(error).startswith(reason)


def test_two_losses_of_different_kinds_are_both_told(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ray_searcher, "PAUSE", 0.0)
    study = opened(project, 1, parallel=True)
    searcher, _ = searching(study)
    for name, error in (("a", NodeDiedError("gone")), ("b", ActorDiedError())):
        config_of(searcher, name)
        searcher.fell(name, error)
        searcher.on_trial_complete(name, error=True)
    (record,) = study.records
    assert record.reason == f"{CRASHED}; on the first try {NO_MACHINE}"


def executor_of(project: Path, experiment: Experiment) -> RayTune:
    return RayTune(experiment=experiment, folder=project, address=None, wanted=2, cores=2)


MEMORY = """1 worker(s) were killed due to the node running low on memory.
Considered workers: [(Actor(beef)), (Actor(f00d))]
Selected to kill: (Actor(beef): actual memory used=9GB)"""


def test_what_ray_kills_to_free_memory_is_tried_again_and_the_search_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune ends with such an error, and with it all other trials under way."""
    monkeypatch.setattr(_ray_searcher, "PAUSE", 0.0)
    study = opened(project, 2, parallel=True)
    executor = executor_of(project, study.experiment)
    rounds: list[dict[str, Any]] = []

    def tune(self: RayTune, searcher: Asking) -> None:
        del self
        hog, other = (config_of(searcher, f"{name}{len(rounds)}") for name in "ab")
        rounds.extend((hog, other))
        if len(rounds) == 6:  # the third round: all that is left is the one that never was to blame
            raise AssertionError(rounds)
        for name, worker in (("a", "beef"), ("b", "f00d")):
            place = said(machine="one", worker=worker)
            searcher.on_trial_result(f"{name}{len(rounds) - 2}", place)
        raise RuntimeError("unexpected") from OutOfMemoryError(MEMORY)

    def finish(self: RayTune, searcher: Asking) -> None:
        del self
        config = config_of(searcher, "last")
        rounds.append(config)
        record = answer(Asked(trial=config["trial"], point=config["point"], forced=True))
        searcher.on_trial_complete("last", said(result=record.to_json()))
        assert searcher.suggest("none") == Searcher.FINISHED

    monkeypatch.setattr(RayTune, "config", Cluster.config)
    monkeypatch.setattr(RayTune, "_depot", None)
    turns = iter([tune, tune, finish])
    monkeypatch.setattr(RayTune, "_tune", lambda self, searcher: next(turns)(self, searcher))
    feed = searching(study)[1]
    executor.run(feed)
    hog, other = rounds[0], rounds[1]
    assert feed.open == {}
    records = {r.trial: r for r in study.records}
    assert records[hog["trial"]].reason == f"{NO_MEMORY}, twice"
    assert records[other["trial"]].state == "complete"


def test_another_error_of_tunes_is_not_taken_for_a_lack_of_memory(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(project, 2, parallel=True)
    monkeypatch.setattr(RayTune, "_depot", None)

    def broken(self: RayTune, searcher: Asking) -> None:
        raise RuntimeError("Tune is broken")

    monkeypatch.setattr(RayTune, "_tune", broken)
    with pytest.raises(RuntimeError, match="Tune is broken"):
        executor_of(project, study.experiment).run(searching(study)[1])


def nodes(monkeypatch: pytest.MonkeyPatch, **cores: float) -> None:
    found = [{"NodeID": i, "Alive": True, "Resources": {"CPU": n}} for i, n in cores.items()]
    monkeypatch.setattr(ray, "nodes", lambda: found)


def test_a_lost_trial_avoids_its_machine_where_another_can_run_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = executor_of(project, Experiment.load(project / "experiment.toml"))
    point = executor.experiment.space.neutral()
    asked = Asked(trial=0, point=point, forced=True)
    monkeypatch.setattr(RayTune, "_station", Station.of(executor.experiment, project, remote=False))
    nodes(monkeypatch, one=2)
    alone = executor.config(asked, "one")
    assert alone["avoid"] is None
    assert not executor._placement(alone)._bound.kwargs
    nodes(monkeypatch, one=2, two=2)
    config = executor.config(asked, "one")
    assert config["avoid"] == "one"
    selector = executor._placement(config)._bound.kwargs["bundle_label_selector"]
    assert selector == [{"ray.io/node-id": "!one"}]
    assert executor.config(asked, None)["avoid"] is None
    nodes(monkeypatch, one=2)
    assert executor.refuses(Plan()) is None
    assert "Only the machine on which it was lost" in str(executor.refuses(Plan(), "one"))


def test_what_asks_for_more_than_any_machine_has_is_infeasible_at_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes(monkeypatch, one=3, two=1)  # four together, and never on one machine
    file = project / "experiment.toml"
    file.write_text(file.read_text().replace("[space.deploy", PLACED + "[space.deploy"))
    experiment = Experiment.load(file)
    executor = dataclasses.replace(executor_of(project, experiment), wanted=1)
    assert executor.refuses(Plan(placement=Placement(count=3))) is None
    reason = "It asks for 4 CPU on one machine; the cluster's largest has 3 CPU."
    assert executor.refuses(Plan(placement=Placement(count=4))) == reason
    nodes(monkeypatch, one=1, two=1)
    (project / "run").mkdir()
    limited = dataclasses.replace(experiment, trials=8)
    study = Study.open(
        project / "run", limited, lambda p: executor.refuses(experiment.space.plan(p))
    )
    while asked := study.ask():
        assert asked.point["placement.devices.count"] == 1
        study.tell(asked, answer(asked))
        if study.paid == limited.trials:
            break
    refused = [r for r in study.records if r.state == "infeasible"]
    assert refused
    assert {r.reason for r in refused} == {
        "It asks for 2 CPU on one machine; the cluster's largest has 1 CPU."
    }


def test_a_trial_whose_machines_have_left_ends_the_search(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(project, parallel=True)
    feed = searching(study)[1]
    reason = "It asks for 2 CPU on one machine; the cluster's largest has 1 CPU."
    searcher = Asking(feed, Cluster(experiment=study.experiment, refusal=reason))
    config_of(searcher, "a")
    searcher.check_waiting()  # machines may come back
    monkeypatch.setattr(_ray_searcher, "STARVED", -1.0)
    with pytest.raises(BadEnvironment, match="trial 0 cannot start: It asks for 2 CPU"):
        searcher.check_waiting()
    searcher.started("a")
    searcher.check_waiting()


@pytest.mark.parametrize(
    ("mode", "address", "warns"),
    [
        ("token", None, False),
        ("disabled", None, True),
        ("", None, True),
        ("disabled", "auto", False),  # that cluster's owner has decided
    ],
)
def test_a_cluster_without_tokens_is_warned_of_in_one_line(
    monkeypatch: pytest.MonkeyPatch, mode: str, address: str | None, warns: bool
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    warning = _ray_cluster.unguarded(address)
    assert (warning is not None) is warns
    if warning:
        assert f"RAY_AUTH_MODE={mode} lets anyone" in warning
        assert "\n" not in warning
