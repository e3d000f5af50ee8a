"""Confirming a front: ratios to the baseline are seen in turns, a fault costs one member."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from _answers import measured
from _machines import Machine, artifact, manifest

from search.evaluation import confirm
from search.experiment.experiment import Experiment
from search.measuring.server import Crashed
from search.records.record import Record

MEMBERS = 20
"""More than two groups."""


@dataclasses.dataclass
class Run:
    """A run folder with a baseline and members, and the machine that they are confirmed on."""

    folder: Path
    experiment: Experiment
    machine: Machine
    records: list[Record]
    reference: int = 0
    """Trial of the artifact that takes turns with all others."""

    def answers(self, records: list[Record] | None = None) -> dict[str, Any]:
        asked = self.records if records is None else records
        job = {
            "records": [r.to_json() for r in asked],
            "reference": self.records[self.reference].to_json(),
            "run": str(self.folder),
        }
        return confirm.measure(self.experiment, job, self.machine)  # type: ignore[arg-type]

    def revised(self, records: list[Record] | None = None) -> list[Record]:
        asked = self.records if records is None else records
        answers = self.answers(asked)
        return [
            confirm.revised(r, answers[str(r.trial)]) if str(r.trial) in answers else r
            for r in asked
        ]

    def speedups(self, records: list[Record]) -> list[float]:
        """Return the baseline's confirmed time by each member's."""
        base, *others = [r.measurements["latency"].value for r in records]
        return [base / own for own in others]

    def true(self, records: list[Record]) -> list[float]:
        base, *others = [self.machine.times[r.trial] for r in records]
        return [base / own for own in others]


@pytest.fixture
def run(project: Path) -> Run:
    experiment = Experiment.load(project / "experiment.toml")
    point = experiment.space.neutral()
    folder = project / "run"
    values = {"accuracy": measured(0.9, "score"), "latency": measured(1.0, "ms")}
    values["size"] = measured(10.0, "bytes")
    records = [
        Record(
            trial=trial,
            point=point,
            runtime="null",
            state="complete",
            measurements=values,
            artifact=artifact(folder, trial),
        )
        for trial in range(MEMBERS + 1)
    ]
    times = {trial: 8.0 / (1 + trial % 4) for trial in range(MEMBERS + 1)}
    return Run(folder, experiment, Machine(times), records)


@pytest.mark.parametrize("reference", [0, 3, MEMBERS])
def test_gains_are_those_seen_in_turns_whatever_the_machine_does_between_groups(
    run: Run, reference: int
) -> None:
    run.reference = reference
    revised = run.revised()
    assert len(run.machine.groups) > 2
    assert all(len(group) <= confirm.GROUP + 1 for group in run.machine.groups)
    assert run.speedups(revised) == pytest.approx(run.true(revised))
    assert not any(confirm.pending([r], revised[0]) for r in revised)
    values = [r.measurements for r in (run.records[reference], revised[reference])]
    assert values[0]["latency"].value == values[1]["latency"].value
    for record in revised:
        ratio, true = record.measurements["latency"].ratio, run.machine.times[record.trial]
        assert record.trial == 0 or (ratio and ratio.value == pytest.approx(true / 8.0))
        told = manifest(run.folder, record)["confirmed"]
        assert told["latency"] == record.measurements["latency"].to_json()


def test_what_is_confirmed_later_compares_with_the_same_baseline(run: Run) -> None:
    early = run.revised(run.records[:4])
    late = run.revised([early[0], *run.records[4:]])
    assert late[0] == early[0]
    everything = [*early, *late[1:]]
    assert run.speedups(everything) == pytest.approx(run.true(everything))


def test_the_searchs_own_values_are_kept_beside_the_confirmed_ones(run: Run) -> None:
    once = run.revised(run.records[:3])
    other = [once[1], once[0], once[2]]  # as if another record were the baseline by now
    twice = run.revised(other)
    assert not confirm.pending(twice, twice[0])
    for record in (*once, *twice):
        assert record.facts.during_search == {"latency": measured(1.0, "ms").to_json()}


def test_a_member_that_cannot_be_measured_fails_alone(run: Run) -> None:
    run.machine.crashing = {2}
    revised = run.revised()
    assert [r.trial for r in revised if r.state == "failed"] == [2]
    assert "could not be measured again: the runtime crashed" in str(revised[2].reason)
    rest = [r for r in revised if r.state == "complete"]
    assert run.speedups(rest) == pytest.approx(run.true(rest))


def test_artifacts_that_do_not_fit_in_memory_together_are_measured_one_by_one(run: Run) -> None:
    run.machine.room = 1
    revised = run.revised(run.records[:4])
    assert {r.state for r in revised} == {"complete"}
    assert run.speedups(revised) == pytest.approx(run.true(revised))


@pytest.mark.parametrize("fault", ["crashing", "unscored"])
def test_where_the_baseline_cannot_be_measured_no_member_is_blamed(run: Run, fault: str) -> None:
    setattr(run.machine, fault, {0, 1, 2})
    with pytest.raises(Crashed):
        run.answers()


def test_a_fault_that_came_after_the_baseline_was_confirmed_blames_no_member(run: Run) -> None:
    baseline = run.revised(run.records[:1])[0]
    run.machine.unscored = set(range(MEMBERS + 1))
    with pytest.raises(Crashed):
        run.answers([baseline, *run.records[1:]])


def test_a_member_without_a_score_on_test_data_fails_alone(run: Run) -> None:
    run.machine.unscored = {3}
    revised = run.revised()
    assert [r.trial for r in revised if r.state == "failed"] == [3]
    assert "finite" in str(revised[3].reason)
    assert "test split" in str(revised[3].reason)
    assert all(r.test for r in revised if r.state == "complete")
