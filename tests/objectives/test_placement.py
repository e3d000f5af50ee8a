"""Artifacts on two devices: the same outputs, less memory, reasons, and no process left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from _placed import (
    Block,
    Convolutions,
    Mean,
    Perceptron,
    Random,
    Turned,
    artifact,
    shipped,
)
from torch import nn

from objectives import Target
from objectives.artifacts import load
from objectives.examples import read
from objectives.metrics.cost import Cost
from objectives.metrics.latency import Latency
from objectives.metrics.memory import Memory
from objectives.metrics.throughput import Throughput
from objectives.placement import auto, ranks
from objectives.placement.auto import Timing, decide
from objectives.placement.limits import devices, lacks, refuses
from objectives.placement.program import PlacedProgram
from objectives.placement.ranks import DeviceFailed
from objectives.placement.stages import prepare
from objectives.runtimes.eager import Eager
from objectives.runtimes.null import Null
from spaces import Encoding, Infeasible, Placement
from spaces.devices.cpu import Cpu
from spaces.modules.trees import call, flatten

ROOT = Path(__file__).parents[2]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
two_cores = pytest.mark.skipif(CORES < 2, reason="two devices need two cores")

pytestmark = pytest.mark.slow  # processes that import the libraries anew


@pytest.fixture(autouse=True, scope="module")
def _libraries() -> None:
    """Import once what processes forked from here would each import."""
    prepare()


@pytest.fixture(autouse=True)
def _nothing_is_left():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    assert not [p for p in multiprocessing.active_children() if p.name.startswith("device")]


def deviation(task: Random, outputs: Any, inputs: Any) -> float:
    """Return the largest difference from the unsplit model, relative to its largest output."""
    with torch.no_grad():
        wanted = flatten(call(task.model(), inputs))[0]
    pairs = list(zip(wanted, flatten(outputs)[0], strict=True))
    return max(float((a - b).abs().max()) for a, b in pairs) / float(wanted[0].abs().max())


@two_cores
@pytest.mark.parametrize("strategy", ["data", "tensor", "pipeline"])
@pytest.mark.parametrize(
    "kind", [Perceptron, pytest.param(Block, marks=pytest.mark.ci), Turned, Convolutions]
)
def test_two_devices_compute_what_one_does(
    tmp_path: Path, kind: type[nn.Module], strategy: str
) -> None:
    task = Random(kind)
    inputs = next(task.batches("test", 7))[0]
    with shipped(tmp_path / "a", task, strategy) as program:
        assert deviation(task, program(inputs), inputs) < 1e-5
        assert deviation(task, program(-inputs), -inputs) < 1e-5
        assert program.placement()["strategy"] == strategy
        feed = program.feed([inputs[:4]])
        assert program.seconds(feed) > 0
        assert all(rate > 0 for rate in program.stream([feed], 0.01))


@pytest.mark.parametrize("strategy", ["data", "tensor", "pipeline"])
def test_four_devices_compute_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.setattr(ranks, "cores_of", lambda *_: [()] * 4)  # they share the cores there are
    task = Random(Block)
    inputs = next(task.batches("test", 7))[0]
    with shipped(tmp_path / "a", task, strategy, count=4) as program:
        assert deviation(task, program(inputs), inputs) < 1e-5
        assert deviation(task, program(-inputs), -inputs) < 1e-5
        assert program.placement()["devices"] == 4
        feed = program.feed([inputs[:4]])
        assert program.seconds(feed) > 0
        assert all(rate > 0 for rate in program.stream([feed], 0.01))


@two_cores
def test_half_precision_is_summed_too(tmp_path: Path) -> None:
    task = Random(Perceptron)
    inputs = next(task.batches("test", 4))[0]
    half = Encoding(dtype="bfloat16")
    with shipped(tmp_path / "a", task, "tensor", encoding=half) as program:
        assert 0 < deviation(task, program(inputs), inputs) < 0.05


@two_cores
def test_a_device_needs_less_memory_when_weights_are_shared_out(tmp_path: Path) -> None:
    task, found = Random(Perceptron, 768), {}
    for strategy in ("data", "tensor", "pipeline"):
        with shipped(tmp_path / strategy, task, strategy) as program:
            found[strategy] = Memory().measure(program, read(task, "test")).value
    weights = sum(p.numel() * 4 for p in task.model().parameters())
    assert 0.9 * weights < found["data"] < 1.6 * weights
    assert found["tensor"] < 0.9 * found["data"]
    assert found["pipeline"] < 0.9 * found["data"]


def test_one_device_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    task = Random(Perceptron, 512)
    place = artifact(tmp_path / "a", task, {}, Target(), Eager(), Encoding())
    with pytest.raises(ValueError, match="load the artifact apart"):
        Memory().measure(load(place, Eager(), task), read(task, "test"))
    with load(place, Eager(), task, apart=True) as program:
        measured = Memory().measure(program, read(task, "test"))
    weights = sum(p.numel() * 4 for p in task.model().parameters())
    assert measured.unit == "bytes"
    assert 0.9 * weights < measured.low <= measured.value < 2 * weights


def test_throughput_cost_and_latency_agree(tmp_path: Path) -> None:
    task, target = Random(Mean), Target(batch_size=5)
    place = artifact(tmp_path / "a", task, {}, target, Null(ns_per_weight=1e6), Encoding())
    program, examples = load(place, Null(), task), read(task, "test")
    latency, throughput, cost = (
        kind(seconds=0.01).measure(program, examples) for kind in (Latency, Throughput, Cost)
    )
    assert throughput.value == pytest.approx(5 / (1e-3 * latency.value))
    assert cost.value == pytest.approx(1000 / throughput.value)
    assert throughput.low <= throughput.value <= throughput.high


@two_cores
def test_replicas_of_any_runtime_add_up_and_cost_the_same(tmp_path: Path) -> None:
    task = Random(Mean)
    with shipped(tmp_path / "a", task, "auto", runtime=Null()) as program:
        two = Throughput(seconds=0.01).measure(program, read(task, "test"))
        cost = Cost(seconds=0.01).measure(program, read(task, "test"))
        assert program.placement()["reason"] == (
            "data: null executes a whole graph, which cannot be split"
        )
    alone = artifact(tmp_path / "b", task, {}, Target(batch_size=4), Null(), Encoding())
    one = Throughput(seconds=0.01).measure(load(alone, Null(), task), read(task, "test"))
    assert two.value == pytest.approx(2 * one.value)
    assert cost.value == pytest.approx(1000 / one.value)


@two_cores
def test_auto_measures_every_strategy_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cpu, "shortest", 0.0)
    monkeypatch.setattr(auto, "SECONDS", 0.05)
    task = Random(Perceptron)
    inputs = next(task.batches("test", 4))[0]
    with shipped(tmp_path / "a", task, "auto") as program:
        told = program.placement()
        assert told["reason"].startswith(told["strategy"])
        for words in ("data", "tensor", "pipeline", "2 cpu devices at batch 4"):
            assert words in told["reason"]
        assert deviation(task, program(inputs), inputs) < 1e-5


def decided(tensor: Timing | None, latency: float = 1.0) -> tuple[str, str]:
    """Return what is decided where replicas double the throughput, and why."""

    def attempt(strategy: str) -> Timing:
        if strategy == "tensor" and tensor is not None:
            return tensor
        raise Infeasible("it has one layer")

    alone = Timing(latency=latency, rate=1 / latency)
    replicas = Timing(latency=latency, rate=2 / latency)
    found = decide(alone, replicas, attempt, Target(batch_size=8), 2)
    return found.strategy, found.reason


def test_auto_prefers_what_gains_most_in_latency_and_throughput_together() -> None:
    strategy, reason = decided(Timing(latency=0.6, rate=1.7))
    assert strategy == "tensor"
    assert "tensor 1.67x and 1.70x, pipeline not possible (it has one layer)" in reason
    assert decided(Timing(latency=0.8, rate=1.3))[0] == "data"
    assert decided(None)[0] == "data"
    strategy, reason = decided(Timing(latency=1e-5, rate=1e5), latency=1e-4)
    assert strategy == "data"
    assert "a batch takes 0.1 ms" in reason


@two_cores
@pytest.mark.parametrize(
    ("strategy", "reason"), [("tensor", "nothing to split"), ("pipeline", "1 operations")]
)
def test_what_cannot_be_split_says_so(tmp_path: Path, strategy: str, reason: str) -> None:
    with pytest.raises(Infeasible, match=reason):
        shipped(tmp_path / "a", Random(Mean), strategy)


def test_a_host_lacks_what_it_has_not_and_a_split_is_refused_on_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = devices(Target())
    one, many = Placement(), Placement(count=limit + 1)
    assert lacks(Target(), one) is None
    assert f"this host has {limit}" in str(lacks(Target(), many))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    reason = "2 devices were asked for, this host has 0 GPUs"
    assert lacks(Target(device="cuda"), Placement(count=2)) == reason
    split = Placement(count=limit + 1, strategy="tensor")
    for placement in (one, many):
        assert refuses(placement, Encoding(), "null", Null()) is None
    assert "whole graph" in str(refuses(split, Encoding(), "null", Null()))
    eight = Encoding(weight_bits=8, activation_bits=8)
    assert "integer layers" in str(refuses(split, eight, "eager", Eager()))
    assert refuses(split, Encoding(), "eager", Eager()) is None


@two_cores
def test_an_error_in_a_device_reaches_the_caller_as_one_line(tmp_path: Path, capsys) -> None:
    program = shipped(tmp_path / "a", Random(Perceptron), "tensor")
    with pytest.raises(DeviceFailed, match=r"device \d: RuntimeError: ") as caught:
        program.run(program.feed([torch.zeros(4, 5)]))
    assert len(str(caught.value).splitlines()) == 1
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(DeviceFailed, match="have been ended"):
        program.feed([torch.zeros(4, 96)])


@two_cores
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_device_that_ends_or_hangs_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    program = shipped(tmp_path / "a", Random(Perceptron), "tensor")
    feed = program.feed([torch.zeros(4, 96)])
    monkeypatch.setattr(ranks, "SECONDS", 0.5)
    victim = next(p for p in multiprocessing.active_children() if p.name == "device-1")
    assert victim.pid is not None
    os.kill(victim.pid, number)
    told = r"device (1: its process was killed|[01, ]+: no answer)"
    with pytest.raises(DeviceFailed, match=told):
        program.run(feed)


PARENT = """
import multiprocessing, sys, time
sys.path[:0] = ["{root}", "{tests}"]
from pathlib import Path
from _placed import Perceptron, Random, shipped

if __name__ == "__main__":
    program = shipped(Path("{folder}"), Random(Perceptron), "data")
    print(*(p.pid for p in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


@two_cores
def test_devices_die_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    places = {"root": ROOT, "tests": Path(__file__).parent, "folder": tmp_path / "a"}
    script.write_text(PARENT.format(**places))
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(psutil.pid_exists, pids))


@two_cores
def test_devices_can_be_started_beside_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "start_method", lambda: "spawn")
    task = Random(Perceptron)
    inputs = next(task.batches("test", 4))[0]
    with shipped(tmp_path / "a", task, "tensor") as program:
        assert isinstance(program, PlacedProgram)
        assert deviation(task, program(inputs), inputs) < 1e-5
