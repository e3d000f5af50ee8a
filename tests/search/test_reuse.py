"""What one trial has computed serves the others: once, equal, counted, and within a limit."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from search.errors import BadExperiment
from search.evaluation.cache import Cache, CachedMemory
from search.evaluation.eviction import evict
from search.executors.local import Local
from search.experiment import Experiment
from search.records import Facts, Record
from search.reporting.effort import reuse
from search.study.study import PendingTrial


def cache(folder: Path, **settings: float) -> Cache:
    return Cache(folder=folder, identity={"seed": 0}, **settings)  # type: ignore[arg-type]


def test_trials_that_need_the_same_value_compute_it_once(tmp_path: Path) -> None:
    computed: list[int] = []
    found: list[tuple[torch.Tensor, float]] = []

    def compute() -> dict[str, torch.Tensor]:
        computed.append(1)
        time.sleep(0.1)
        return {"moments": torch.arange(3.0)}

    def trial() -> None:
        own = cache(tmp_path)
        memory = CachedMemory(cache=own, device=torch.device("cpu"))
        for _ in range(2):
            value = memory.remembered("moments", {"model": "a"}, compute)
        found.append((value["moments"], own.saved.get("statistics", -1.0)))

    threads = [threading.Thread(target=trial) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 1
    assert all(torch.equal(value, torch.arange(3.0)) for value, _ in found)
    # what a trial has computed itself saves it nothing; what it waited for is no gain
    assert sorted(saved < 0 for _, saved in found) == [False, False, True]


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cache(tmp_path).value("probe", {}, lambda: 1 / 0)
    assert cache(tmp_path).value("probe", {}, lambda: "found") == "found"


def test_what_was_not_used_for_longest_goes_first_and_what_is_held_stays(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    for age, name in enumerate(("new", "old", "older", "oldest")):
        kept.value("probe", {"name": name}, lambda: torch.zeros(2500))
        path = kept.path("probe", name=name).with_suffix(".pt")
        os.utime(path, (1e9 - age, 1e9 - age))
    kept.value("probe", {"name": "old"}, lambda: None)  # used again: now the newest
    with kept.locked(kept.path("probe", name="oldest")):
        removed = evict(tmp_path, 25_000)
    expected = [kept.path("probe", name=name).with_suffix(".pt") for name in ("older", "new")]
    assert removed == expected
    assert not any(path.exists() for path in removed)
    assert cache(tmp_path).value("probe", {"name": "older"}, lambda: "again") == "again"


def test_a_cache_keeps_to_its_limit_by_itself(tmp_path: Path) -> None:
    small = cache(tmp_path, limit=25_000)
    for number in range(5):
        small.value("probe", {"number": number}, lambda: torch.zeros(2500))
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.pt")) <= 25_000


def test_the_limit_is_a_setting_that_a_resumed_run_may_change(project: Path) -> None:
    file = project / "experiment.toml"
    before = Experiment.load(file)
    file.write_text("cache_gb = 0.5\n" + file.read_text())
    after = Experiment.load(file)
    assert (after.cache_gb, after.key) == (0.5, before.key)
    assert Experiment.of(after.to_json(), project).cache_gb == 0.5
    file.write_text(file.read_text().replace("0.5", "-1", 1))
    with pytest.raises(BadExperiment, match="cache_gb must be a number above 0, got -1"):
        Experiment.load(file)


def test_points_that_differ_in_training_share_a_shape_and_a_probe(project: Path) -> None:
    experiment = Experiment.load(project / "experiment.toml")
    run = project / "run"
    run.mkdir()
    executor = Local(experiment=experiment, folder=run, cores=1)

    def facts(trial: int, **settings: float | str) -> Facts:
        point = experiment.space.neutral() | {
            "deploy.runtime.name": "null",
            "distill.logits.steps": 2,
            **settings,
        }
        pending = PendingTrial(trial=trial, point=point, forced=True)
        record = executor.evaluate(pending, None, lambda *_: None)
        assert record.state == "complete", record.reason
        return record.facts

    first = facts(0, **{"prune.channels.ratio": 0.5, "distill.logits.temperature": 1.0})
    second = facts(1, **{"prune.channels.ratio": 0.5, "distill.logits.temperature": 4.0})
    third = facts(2, **{"prune.channels.ratio": 0.25, "distill.logits.temperature": 4.0})
    assert first.saved is None
    assert set(second.saved or {}) == {"shape", "probe"}
    assert second.probe is not None
    assert set(third.saved or {}) == {"statistics"}


def record(**saved: float) -> Record:
    return Record(
        trial=0,
        point={},
        runtime="eager",
        state="complete",
        measurements={},
        facts=Facts(saved=saved or None),
    )


def test_a_sentence_tells_what_was_saved() -> None:
    assert reuse([record(), record()]) is None
    told = reuse([record(), record(statistics=90.0, probe=5.0), record(statistics=30.0)])
    assert told == (
        "Results of earlier trials saved 2.1 min: statistics of the model 2 times (2.0 min), "
        "a measurement before training once (5 s)."
    )
