"""Trials on Ray: all that is asked is told, whatever happens to workers and machines."""

import dataclasses
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from _ray import GUARDED, TOKENLESS, clean, connected, in_a_trial, opened, searched

from search.executors.ray import searcher  # isort: skip  # before Ray itself

import optuna
import psutil
import ray
from optuna.trial import TrialState
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from objectives import Target
from objectives.runtimes.inductor import runtime
from search.errors import BadEnvironment
from search.executors.ray.executor import RayTune
from search.executors.ray.shipping import MARK
from search.experiment.experiment import Experiment
from search.experiment.feasibility import refusal
from search.records.record import Record
from search.records.stopping import Rung
from search.reporting.console import LEGEND
from search.signals import Stopped
from search.study.queue import Queue
from search.study.study import PendingTrial
from spaces import Encoding, Placement, Plan

# Ray's own processes and sockets outlive its shutdown by moments.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.slow]


OWN = """
import task
from spaces import Task


class Own(Task):
    def model(self):
        return task.model()

    def batches(self, split, batch_size):
        return task.batches(split, batch_size)

    def describe(self):
        return {"name": "own"}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of two machines with two cores and one, on this one."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture
def prepared(project: Path, cluster: Cluster) -> Iterator[RayTune]:
    """An executor with two workers for four trials."""
    with connected(project, cluster, 4, 2) as executor:
        yield executor


def test_a_search_on_machines_without_the_drivers_disk(prepared: RayTune) -> None:
    assert prepared._workspace.token
    (prepared.folder / MARK).unlink()  # no worker can tell that it shares the disk
    study = searched(prepared)
    records = [r for r in study.records if r.state != "infeasible"]
    assert {r.reason for r in records} == {None}
    assert len(records) == study.paid == 4
    for record in records:
        assert (prepared.folder / str(record.artifact) / "manifest.json").is_file()
    answers = prepared.confirm(records[:2], records[0], lambda *message: None)
    assert set(answers) == {str(r.trial) for r in records[:2]}
    assert all(answer["test"]["accuracy"]["value"] > 0 for answer in answers.values())
    assert all(r.limits == {} or r.satisfied for r in records)
    assert prepared._workspace.scratch.is_dir()
    prepared.close()
    assert not prepared._workspace.scratch.exists()


def test_a_task_of_the_users_own_class_reaches_the_workers(project: Path, cluster: Cluster) -> None:
    (project / "own.py").write_text(OWN)
    file = project / "experiment.toml"
    named = file.read_text().replace('[task.python]\nfile = "task.py"', '[task."own.py:Own"]')
    file.write_text(named)
    with connected(project, cluster, 2, 2) as executor:
        study = searched(executor)
    assert [r.reason for r in study.records if r.state != "infeasible"] == [None, None]


@pytest.mark.ci
def test_what_no_machine_can_give_is_refused(prepared: RayTune) -> None:
    reason = prepared.lacks(Plan(placement=Placement(count=3)))
    assert reason == "It asks for 3 CPU on one machine; the cluster's largest has 2 CPU."
    assert prepared.lacks(Plan()) is None


def test_a_killed_worker_costs_no_trial_and_a_trial_killed_twice_says_why(
    project: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial's worker is killed once, the second trial's own process each time."""
    monkeypatch.setattr(searcher, "PAUSE", 0.5)
    marker = project / "marker"
    in_a_trial(
        project,
        f"""import psutil
        own = os.readlink("/proc/self/fd/1")
        with open({str(marker)!r}, "a+") as file:
            file.write(own + "\\n"); file.seek(0); said = file.read().splitlines()
        if len(said) == 1:
            psutil.Process().parent().parent().kill()
        elif own != said[0]:
            os.kill(os.getpid(), 9)""",
    )
    with connected(project, cluster, 2, 1) as executor:
        study = searched(executor)
    first, second = study.records
    assert first.state == "complete"
    assert second.state == "failed"
    assert second.reason == "its process was killed, most likely because memory ran out, twice"
    names = [Path(line).name for line in marker.read_text().splitlines()]
    assert names.count(f"{second.trial}.log") == 2  # each call of model() ended its process


class Strict(Queue):
    """A feed that stops the second trial on its way, and counts the trials at once."""

    most = 0

    def ask(self) -> PendingTrial | None:
        asked = super().ask()
        self.most = max(self.most, len(self.open))
        return asked

    def judge(self, asked: PendingTrial, rung: Rung) -> str | None:
        return f"stopped at {rung.name}" if asked.trial == 1 else None


def test_large_and_stopped_trials_among_small_ones_on_no_more_workers_than_asked(
    project: Path, cluster: Cluster
) -> None:
    file = project / "experiment.toml"
    space = '[space.placement.devices]\ncount = [1, 2]\nstrategy = ["auto", "data"]\n'
    head, _, tail = file.read_text().partition("[space.deploy")
    file.write_text(head.partition("[space.distill")[0] + space + "[space.deploy" + tail)
    with connected(project, cluster, 8, 2) as executor:
        study, feed = opened(executor, lambda record: None, Strict)
        executor.run(feed)
    assert isinstance(feed, Strict)
    assert feed.most == 2  # there are three cores
    paid = {r.trial: r for r in study.records if r.state != "infeasible"}
    large = [r for r in paid.values() if r.point["placement.devices.count"] == 2]
    assert large
    assert {r.state for r in paid.values() if r.trial != 1} == {"complete"}, study.records
    assert (paid[1].state, paid[1].reason) == ("pruned", "stopped at probe")
    file = executor.folder / "study.db"
    told = optuna.load_study(study_name="tiny", storage=f"sqlite:///{file}").get_trials()
    assert (told[1].state, told[1].values) == (TrialState.PRUNED, None)
    assert all(trial.state.is_finished() for trial in told)


def test_an_interrupt_ends_trials_that_say_nothing_and_leaves_nothing_behind(
    project: Path, cluster: Cluster
) -> None:
    marker = project / "marker"
    in_a_trial(
        project,
        f"""import time
        if os.readlink("/proc/self/fd/1").endswith("/1.log"):
            open({str(marker)!r}, "w").write(str(os.getpid()))
            time.sleep(600)""",
    )

    def interrupt(record: Record) -> None:
        if marker.exists():
            raise Stopped(signal.SIGINT)

    with connected(project, cluster, 8, 2) as executor:
        assert executor._workspace.token
        (executor.folder / MARK).unlink()  # no worker can tell that it shares the disk
        study, feed = opened(executor, interrupt)
        with pytest.raises(Stopped):
            executor.run(feed)
        feed.close()
        assert executor._workspace.scratch.is_dir()
        executor.close()
        assert not executor._workspace.scratch.exists()
    assert not psutil.pid_exists(int(marker.read_text()))
    assert 1 not in {r.trial for r in study.records}


def test_what_the_drivers_machine_cannot_execute_another_may(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's machine gives no core to trials, and has no compiler; the other one has."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.add_node(num_cpus=1)
    plan, kinds = Plan(runtime="inductor"), frozenset({"Linear"})
    assert runtime.Inductor().refuses(plan.encoding, Target(), kinds) is None
    monkeypatch.setattr(runtime, "cxx", lambda: None)
    try:
        with connected(project, made, 1, 1) as executor:
            assert "C++ compiler" in str(refusal(executor.experiment, plan, kinds))
            assert executor.refusal(plan, kinds) is None
            both = dataclasses.replace(plan, encoding=Encoding(weight_bits=3))
            assert "save nothing" in str(executor.refusal(both, kinds))
    finally:
        made.shutdown()


@ray.remote
class Holder:
    """Holds a core of a machine."""

    def ready(self) -> None:
        """Return once it does."""


def test_a_trial_lost_once_runs_where_it_was_lost_if_no_other_machine_is_left(
    project: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searcher, "PAUSE", 0.0)
    marker = project / "marker"
    in_a_trial(
        project,
        f"""first = not os.path.exists({str(marker)!r})
        open({str(marker)!r}, "a").close()
        if first:
            os.kill(os.getpid(), 9)""",
    )
    others = cluster.list_all_nodes()[1:]
    with connected(project, cluster, 1, 1) as executor:
        held = []
        for node in others:
            there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            held.append(Holder.options(num_cpus=1, scheduling_strategy=there).remote())
        ray.get([holder.ready.remote() for holder in held])
        study, feed = opened(executor, lambda record: None)

        def remove() -> None:
            while not marker.exists():
                time.sleep(0.1)
            time.sleep(2)  # it waits for another machine than its own
            for node in others:
                cluster.remove_node(node)

        leaving = threading.Thread(target=remove)
        leaving.start()
        executor.run(feed)
        leaving.join()
    cluster.add_node(num_cpus=1)
    (record,) = study.records
    assert (record.state, record.reason) == ("complete", None)


def test_a_lost_machine_costs_no_trial(prepared: RayTune, cluster: Cluster) -> None:
    """Last of all: the cluster is smaller afterwards."""
    lost = cluster.list_all_nodes()[-1]
    gone: list[float] = []

    def remove(record: Record) -> None:
        if not gone:
            gone.append(time.monotonic())
            threading.Thread(target=cluster.remove_node, args=(lost,)).start()

    study = searched(prepared, remove)
    assert study.paid == 4
    paid = [r for r in study.records if r.state != "infeasible"]
    assert {r.state for r in paid} <= {"complete", "pruned"}, [r.reason for r in paid]


def test_no_cluster_at_an_address_is_one_clear_line(project: Path) -> None:
    experiment = Experiment.load(project / "experiment.toml")
    executor = RayTune(
        experiment=experiment, folder=project, address="127.0.0.1:1", workers=1, cores=1
    )
    with pytest.raises(BadEnvironment, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        executor.prepare()


@pytest.mark.ci
def test_a_cluster_started_here_lets_in_nobody_without_its_token(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARDED],
        env=clean(project) | {"TOKENLESS": TOKENLESS},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["token", "1", "machine", "disabled", "AuthenticationError"]


def test_an_interrupted_search_says_nothing_of_rays_and_leaves_no_trial_running(
    project: Path,
) -> None:
    """A worker dies on the way, which Ray by itself would tell on stdout; a trial hangs."""
    marker, hung = project / "marker", project / "hung"
    in_a_trial(
        project,
        f"""import psutil
        first = not os.path.exists({str(marker)!r})
        if first and os.readlink("/proc/self/fd/1").endswith("/1.log"):
            open({str(marker)!r}, "a").close()
            psutil.Process().parent().parent().kill()
        if os.readlink("/proc/self/fd/1").endswith("/3.log"):
            open({str(hung)!r}, "a").close()
            import time; time.sleep(600)""",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "search", "run", "experiment.toml", "--workers", "2"],
        cwd=project,
        env=clean(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    records = project / "runs" / "tiny" / "records.jsonl"
    for _ in range(1200):
        done = records.is_file() and records.read_text().count('"complete"') >= 2
        if (done and marker.exists() and hung.exists()) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert out == ""
    assert "search resume runs/tiny" in said
    first, note, legend, *lines, last = said.splitlines()
    assert first.startswith("tiny: ")
    assert note.startswith("note: ")
    assert legend == LEGEND
    assert last.startswith("error: stopped, all measurements are kept")
    assert all(re.match(r"  \d/8 | {4}\w|note: other processes", line) for line in lines), said
    file = project / "runs" / "tiny" / "study.db"
    told = optuna.load_study(study_name="tiny", storage=f"sqlite:///{file}").get_trials()
    assert all(trial.state.is_finished() for trial in told)
    failed = {t.number: t.user_attrs for t in told if t.state == TrialState.FAIL}
    assert failed[3]["reason"] == "the search ended before it was evaluated"
    assert all("reason" in attributes or "record" in attributes for attributes in failed.values())
