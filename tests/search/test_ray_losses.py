"""Lost workers and what no machine can give, without a cluster: one reason each."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest
from _answers import answer, opened
from _searcher import PLACED, Cluster, config_of, said, searching, task_error

from search.executors.ray import cluster  # isort: skip

import ray
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError
from ray.tune.search import Searcher

from objectives import Target
from search.errors import BadEnvironment
from search.executors.local import Local
from search.executors.ray.executor import RayTune, _as_options
from search.executors.ray.losses import CRASHED, KILLED, NO_MACHINE, NO_MEMORY, reason_of
from search.executors.ray.searcher import StudySearcher
from search.executors.ray.shipping import Workspace
from search.executors.ray.trainable import placement
from search.experiment.experiment import Experiment
from search.study.study import PendingTrial, Study
from spaces import Placement, Plan
from spaces.devices import Device
from spaces.devices.cpu import Cpu


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (task_error(f"{KILLED}its process was killed, most likely"), "its process was killed"),
        (task_error("OSError: disk"), "its worker failed: OSError: disk"),
        ("1 worker(s) were killed due to the node running low on memory. Memory on", NO_MEMORY),
        ("The actor died because its node has died. Node Id: 5ece", NO_MACHINE),
        ("Some common causes include: (1) the process was killed by the OOM killer", CRASHED),
        (str(ActorDiedError()), CRASHED),
        ("", CRASHED),
    ],
)
def test_a_loss_is_told_by_its_one_reason(error: str, reason: str) -> None:
    assert reason_of(error).startswith(reason)


def test_two_losses_of_different_kinds_are_both_told(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.executors.ray.searcher.PAUSE", 0.0)
    study = opened(project, 1)
    searcher, _ = searching(study)
    for name, error in (("a", "its node has died"), ("b", "it died")):
        config_of(searcher, name)
        searcher.worker_failed(name, error)
        searcher.on_trial_complete(name, error=True)
    (record,) = study.records
    assert record.reason == f"{CRASHED}; on the first try {NO_MACHINE}"


def executor_of(project: Path, experiment: Experiment) -> RayTune:
    return RayTune(experiment=experiment, folder=project, address=None, workers=2, cores=2)


MEMORY = """1 worker(s) were killed due to the node running low on memory.
Considered workers: [(Actor(beef)), (Actor(f00d))]
Selected to kill: (Actor(beef): actual memory used=9GB)"""


def test_what_ray_kills_to_free_memory_is_tried_again_and_the_search_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune ends with such an error, and with it all other trials under way."""
    monkeypatch.setattr("search.executors.ray.searcher.PAUSE", 0.0)
    study = opened(project, 2)
    executor = executor_of(project, study.experiment)
    rounds: list[dict[str, Any]] = []

    def tune(self: RayTune, searcher: StudySearcher) -> None:
        del self
        hog, other = (config_of(searcher, f"{name}{len(rounds)}") for name in "ab")
        rounds.extend((hog, other))
        if len(rounds) == 6:  # the third round: all that is left is the one that never was to blame
            raise AssertionError(rounds)
        for name, worker in (("a", "beef"), ("b", "f00d")):
            place = said(machine="one", worker=worker)
            searcher.on_trial_result(f"{name}{len(rounds) - 2}", place)
        raise RuntimeError("unexpected") from OutOfMemoryError(MEMORY)

    def finish(self: RayTune, searcher: StudySearcher) -> None:
        del self
        config = config_of(searcher, "last")
        rounds.append(config)
        record = answer(PendingTrial(trial=config["trial"], point=config["point"], forced=True))
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
    study = opened(project, 2)
    monkeypatch.setattr(RayTune, "_depot", None)

    def broken(self: RayTune, searcher: StudySearcher) -> None:
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
    asked = PendingTrial(trial=0, point=point, forced=True)
    monkeypatch.setattr(
        RayTune, "_workspace", Workspace.of(executor.experiment, project, remote=False)
    )
    nodes(monkeypatch, one=2)
    alone = executor.config(asked, "one")
    assert alone["avoid"] is None
    assert not placement(alone)._bound.kwargs
    nodes(monkeypatch, one=2, two=2)
    config = executor.config(asked, "one")
    assert config["avoid"] == "one"
    selector = placement(config)._bound.kwargs["bundle_label_selector"]
    assert selector == [{"ray.io/node-id": "!one"}]
    assert executor.config(asked, None)["avoid"] is None
    nodes(monkeypatch, one=2)
    assert executor.lacks(Plan()) is None
    assert "Only the machine on which it was lost" in str(executor.lacks(Plan(), "one"))


def test_what_asks_for_more_than_any_machine_has_is_infeasible_at_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes(monkeypatch, one=3, two=1)  # four together, and never on one machine
    file = project / "experiment.toml"
    file.write_text(file.read_text().replace("[space.deploy", PLACED + "[space.deploy"))
    experiment = Experiment.load(file)
    executor = dataclasses.replace(executor_of(project, experiment), workers=1)
    assert executor.lacks(Plan(placement=Placement(count=3))) is None
    reason = "It asks for 4 CPU on one machine; the cluster's largest has 3 CPU."
    assert executor.lacks(Plan(placement=Placement(count=4))) == reason
    nodes(monkeypatch, one=1, two=1)
    (project / "run").mkdir()
    limited = dataclasses.replace(experiment, trials=8)
    study = Study.open(project / "run", limited, lambda p: executor.lacks(experiment.space.plan(p)))
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


def test_what_the_drivers_machine_lacks_a_cluster_may_have(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes(monkeypatch, head=1, large=8)
    monkeypatch.setattr(Cpu, "count", lambda self: 1)
    experiment = Experiment.load(project / "experiment.toml")
    plan = Plan(runtime="null", placement=Placement(count=4))
    assert executor_of(project, experiment).lacks(plan) is None
    local = Local(experiment=experiment, folder=project, cores=1)
    reason = local.refusal(plan, frozenset({"Linear"}))
    assert reason == "4 devices were asked for, with 1 core each, and this host has 1 core"


class Remote:
    """Stands for a remote function that nobody runs; notes where it was to run."""

    asked: ClassVar[list[Any]] = []

    @classmethod
    def options(cls, **options: Any) -> "type[Remote]":
        cls.asked.append(options["scheduling_strategy"].node_id)
        return cls

    @staticmethod
    def remote(*arguments: Any) -> None:
        del arguments


def test_another_machine_is_asked_what_it_executes_where_one_is_lost(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = "1" * 56, "2" * 56  # as Ray's ids are
    nodes(monkeypatch, head=0, **{one: 2, two: 2})
    monkeypatch.setattr(RayTune, "_here", "head")
    monkeypatch.setattr("search.executors.ray.executor.remote_refusal", Remote)
    monkeypatch.setattr(Remote, "asked", [])
    executor = executor_of(project, Experiment.load(project / "experiment.toml"))
    answers: list[Any] = [NodeDiedError("gone"), "it has no kernels", *[NodeDiedError("gone")] * 2]

    def get(reference: Any) -> Any:
        del reference
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(ray, "get", get)
    assert executor.refusal(Plan(), frozenset()) == "it has no kernels"
    assert Remote.asked == [one, two]
    with pytest.raises(BadEnvironment, match=r"no machine of the cluster says .*: gone"):
        executor.refusal(Plan(), frozenset())


def test_a_front_is_confirmed_with_what_its_largest_member_needs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes(monkeypatch, one=4, two=4)
    file = project / "experiment.toml"
    file.write_text(file.read_text().replace("[space.deploy", PLACED + "[space.deploy"))
    experiment = Experiment.load(file)
    experiment = dataclasses.replace(experiment, target=Target(device="cuda"))
    executor = executor_of(project, experiment)
    baseline = experiment.space.neutral()
    large = baseline | {"placement.devices.count": 2}
    records = [
        answer(PendingTrial(trial=i, point=p, forced=False))
        for i, p in enumerate((baseline, large))
    ]
    wanted: list[dict[str, Any]] = []

    class Confirm(Remote):
        @classmethod
        def options(cls, **resources: Any) -> type[Remote]:
            wanted.append(resources)
            return cls

    monkeypatch.setattr("search.executors.ray.executor.confirm", Confirm)
    monkeypatch.setattr(ray, "get", lambda reference: {})
    assert executor.confirm(records, records[0], None) == {}
    assert wanted == [{"num_cpus": 1.0, "num_gpus": 2.0}]


def test_another_accelerator_is_asked_for_by_its_own_name(
    project: Path, monkeypatch: pytest.MonkeyPatch, tpu: type[Device]
) -> None:
    nodes(monkeypatch, one=4, two=4)
    experiment = Experiment.load(project / "experiment.toml")
    experiment = dataclasses.replace(experiment, target=Target(device="xla"))
    executor = executor_of(project, experiment)
    reason = (
        "It asks for 1 CPU and 2 TPU on one machine; the cluster's largest has 4 CPU and 0 TPU."
    )
    assert executor.lacks(Plan(placement=Placement(count=2))) == reason
    wanted = {"num_cpus": 1.0, "num_gpus": 0, "resources": {"TPU": 2.0}}
    assert _as_options({"CPU": 1.0, "TPU": 2.0}) == wanted


def test_a_trial_whose_machines_have_left_ends_the_search(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(project)
    feed = searching(study)[1]
    reason = "It asks for 2 CPU on one machine; the cluster's largest has 1 CPU."
    searcher = StudySearcher(feed, Cluster(experiment=study.experiment, refusal=reason))
    config_of(searcher, "a")
    searcher.check()  # machines may come back
    monkeypatch.setattr("search.executors.ray.searcher.STARVED", -1.0)
    with pytest.raises(BadEnvironment, match="trial 0 cannot start: It asks for 2 CPU"):
        searcher.check()
    searcher.started("a")
    searcher.check()


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
    warning = cluster.open_access_warning(address)
    assert (warning is not None) is warns
    if warning:
        assert f"RAY_AUTH_MODE={mode} lets anyone" in warning
        assert "\n" not in warning
