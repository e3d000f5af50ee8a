"""Trials on Ray: all that is asked is told, whatever happens to workers and machines."""

import contextlib
import dataclasses
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex * 2)

from ray.cluster_utils import Cluster

from search.errors import BadEnvironment
from search.executors._shipping import MARK
from search.executors.ray_tune import RayTune
from search.experiment import Experiment
from search.feasibility import refusal
from search.feed import Feed
from search.record import Record
from search.study import Study
from spaces import Placement, Plan, Point

# Ray's own processes and sockets outlive its shutdown by moments.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of two machines with one core each, on this one."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@contextlib.contextmanager
def connected(project: Path, cluster: Cluster, trials: int, workers: int) -> Iterator[RayTune]:
    """An executor for the tiny experiment, on the cluster."""
    experiment = Experiment.load(project / "experiment.toml")
    run = project / "run"
    run.mkdir()
    executor = RayTune(
        experiment=dataclasses.replace(experiment, trials=trials),
        folder=run,
        address=cluster.address,
        wanted=workers,
        cores=2,
    )
    executor.prepare()
    try:
        yield executor
    finally:
        executor.close()


@pytest.fixture
def prepared(project: Path, cluster: Cluster) -> Iterator[RayTune]:
    """An executor with two workers for six trials."""
    with connected(project, cluster, 6, 2) as executor:
        yield executor


def in_a_trial(project: Path, code: str) -> None:
    """Let model() first run `code`, in the processes of trials only."""
    task = project / "task.py"
    own = (
        f"import os\n    if os.getpid() != {os.getpid()}:\n        {code}\n    torch.manual_seed(0)"
    )
    task.write_text(task.read_text().replace("torch.manual_seed(0)", own))


def searched(executor: RayTune, told: Callable[[Record], None] = lambda record: None) -> Study:
    """Return the study after a search."""

    def refuse(point: Point) -> str | None:
        plan = executor.experiment.space.plan(point)
        kinds = frozenset({"Linear", "ReLU"})
        return refusal(executor.experiment, plan, kinds) or executor.refuses(plan)

    study = Study.open(executor.folder, executor.experiment, refuse, parallel=True)
    feed = Feed(
        study,
        seconds=None,
        told=told,
        started=lambda asked: None,
        progress=lambda *message: None,
    )
    executor.run(feed)
    assert feed.open == {}
    return study


def test_a_search_on_machines_without_the_drivers_disk(prepared: RayTune) -> None:
    assert prepared._station.token
    (prepared.folder / MARK).unlink()  # no worker can tell that it shares the disk
    study = searched(prepared)
    records = [r for r in study.records if r.state != "infeasible"]
    assert {r.reason for r in records} == {None}
    assert len(records) == study.paid == 6
    for record in records:
        assert (prepared.folder / str(record.artifact) / "manifest.json").is_file()
    answers = prepared.confirm(records[:2], lambda *message: None)
    assert set(answers) == {str(r.trial) for r in records[:2]}
    assert all(answer["test"]["accuracy"]["value"] > 0 for answer in answers.values())
    assert all(r.limits == {} or r.satisfied for r in records)
    assert prepared._station.scratch.is_dir()
    prepared.close()
    assert not prepared._station.scratch.exists()


def test_what_no_machine_can_give_is_refused(prepared: RayTune) -> None:
    reason = prepared.refuses(Plan(placement=Placement(count=2)))
    assert reason is not None
    assert "2 CPU" in reason
    assert "largest has 1 CPU" in reason
    assert prepared.refuses(Plan()) is None


def test_a_killed_worker_costs_no_trial(project: Path, cluster: Cluster) -> None:
    marker = project / "marker"
    kill = "import psutil; psutil.Process().parent().parent().kill()"
    in_a_trial(
        project,
        f"first = not os.path.exists({str(marker)!r}); open({str(marker)!r}, 'a').close()\n"
        f"        if first: {kill}",
    )
    with connected(project, cluster, 3, 1) as executor:
        study = searched(executor)
    assert [r.state for r in study.records] == ["complete"] * 3
    assert marker.exists()


def test_a_trial_that_is_killed_again_fails_with_a_reason(project: Path, cluster: Cluster) -> None:
    in_a_trial(project, "os.kill(os.getpid(), 9)")
    with connected(project, cluster, 1, 1) as executor:
        study = searched(executor)
    assert [r.state for r in study.records] == ["failed"]
    assert "lost twice" in str(study.records[0].reason)


def test_a_lost_machine_costs_no_trial(prepared: RayTune, cluster: Cluster) -> None:
    """Last of all: the cluster is smaller afterwards."""
    lost = cluster.list_all_nodes()[-1]
    gone: list[float] = []

    def remove(record: Record) -> None:
        if not gone:
            gone.append(time.monotonic())
            threading.Thread(target=cluster.remove_node, args=(lost,)).start()

    study = searched(prepared, remove)
    assert study.paid == 6
    paid = [r for r in study.records if r.state != "infeasible"]
    assert {r.state for r in paid} <= {"complete", "pruned"}, [r.reason for r in paid]


def test_no_cluster_at_an_address_is_one_clear_line(project: Path) -> None:
    experiment = Experiment.load(project / "experiment.toml")
    executor = RayTune(
        experiment=experiment, folder=project, address="127.0.0.1:1", wanted=1, cores=1
    )
    with pytest.raises(BadEnvironment, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        executor.prepare()
