"""What a sceptic asks of a run: build it again, measure it again, compare it with another one."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from _task import Points

import search
from objectives import Ratio, Target
from search.cli.parser import main
from search.errors import BadRun
from search.trust import auditing, comparison, verification
from search.trust.again import Ratios, Timed
from search.trust.auditing import Audit, Audits, read_audits

pytestmark = pytest.mark.slow  # it searches for real; what takes a second is in other files

SPACE = {
    "prune.channels": {"ratio": [0.0, 0.5]},
    "quantize.integer": {"weight_bits": [32, 8], "activation_bits": [32, 8]},
    "deploy.runtime": {"name": ["null"]},
}
OBJECTIVES = {"accuracy": {}, "latency": {"seconds": 0.01}, "size": {}}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on the fake device."""
    folder = tmp_path_factory.mktemp("trust")
    experiment = search.Experiment(
        task=Points(),
        target=Target(threads=1),
        space=SPACE,
        objectives=OBJECTIVES,
        trials=3,
        folder=folder,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        return search.run(experiment, out=folder / "run", quiet=True).folder


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed by a test."""
    return shutil.copytree(original, tmp_path / "run")


class Turns:
    """Stands in for timing in turns: each artifact is as many times as slow as it is told."""

    def __init__(self) -> None:
        self.slower: dict[Path, float] = {}
        self.asked: list[list[Path]] = []

    def __call__(
        self, server: object, experiment: object, artifacts: Sequence[Timed], data: Path
    ) -> list[Ratios]:
        del server, experiment, data
        self.asked.append([a.artifact for a in artifacts])
        times = [self.slower.get(a.artifact, 1.0) for a in artifacts]
        shares = [time / times[0] for time in times]
        return [{"latency": Ratio(value=s, low=0.99 * s, high=1.01 * s)} for s in shares]


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    told = Turns()
    for module in (verification, auditing, comparison):
        monkeypatch.setattr(module, "ratios", told)
    return told


def edit_records(run: Path, trial: int, identity: str, accuracy: float | None = None) -> None:
    """Change the hash of a trial's files, and its accuracy if given, in all that a run stores."""
    front = json.loads((run / "front.json").read_text())
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    for record in (*front["front"], *lines):
        if record["trial"] == trial:
            record["facts"]["identity"] = identity
            value = record["measurements"]["accuracy"]
            value["value"] = value["value"] if accuracy is None else accuracy
    (run / "front.json").write_text(json.dumps(front))
    (run / "records.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in lines))


def test_members_are_rebuilt_from_their_records_alone(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "cache")
    members = {r.trial for r in search.open(run).front} | {0}
    code = main(("verify", str(run), "--json"))
    verified = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {v["trial"] for v in verified} == members
    for member in verified:
        verdicts = {check["name"]: check["equal"] for check in member["checks"]}
        assert verdicts == {"weights": True, "accuracy": True, "latency": True}
    assert not (run / "cache").exists()


def test_a_record_that_is_not_what_comes_out_is_found(
    run: Path, turns: Turns, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = next(r.trial for r in search.open(run).front if r.trial != 0)
    edit_records(run, trial, "0" * 16, 0.123)
    turns.slower[(run / "artifacts" / str(trial)).resolve()] = 0.5
    environment = json.loads((run / "environment.json").read_text())
    environment["made_from"]["weights"] = "others"
    (run / "environment.json").write_text(json.dumps(environment))
    assert main(("verify", str(run), "--trial", str(trial))) == 1
    out, err = capsys.readouterr()
    assert "since the run began, the weights that model() returns changed" in err
    assert out.count("NOT EQUAL") == 3
    assert "0 of 1 members came out equal" in out
    assert len(turns.asked) == verification.TRIES


def test_a_trial_without_an_artifact_is_verified_by_its_hash(run: Path) -> None:
    trial = next(r.trial for r in search.open(run).front if r.trial != 0)
    shutil.rmtree(run / "artifacts" / str(trial))
    (verified,) = search.verify(run, trial=trial, quiet=True)
    assert [c.equal for c in verified.checks] == [True, True, None]
    with pytest.raises(BadRun, match="no complete trial 99"):
        search.verify(run, trial=99, quiet=True)


def test_an_audit_measures_again_and_keeps_the_outcome(run: Path, turns: Turns) -> None:
    front = {r.trial: r for r in search.open(run).front if r.trial != 0}
    base = (run / "artifacts" / "0").resolve()
    for trial, record in front.items():
        ratio = record.measurements["latency"].ratio
        assert ratio is not None
        turns.slower[(run / "artifacts" / str(trial)).resolve()] = ratio.value
    first = search.audit(run, seed=1)
    assert [a.inside for a in first.latest] == [True]
    assert turns.asked[0][0] == base
    for artifact in turns.slower:
        turns.slower[artifact] *= 5
    second = search.audit(run, seed=1)
    assert second.latest[0].trial == first.latest[0].trial
    assert [a.inside for a in second.all] == [True, False]
    assert read_audits(run) == list(second.all)
    assert json.loads((run / "audits.jsonl").read_text().splitlines()[1])["inside"] is False


def test_an_audit_times_the_real_artifacts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("audit", str(run), "--seed", "3")) == 0
    out = capsys.readouterr().out
    assert "of 1 intervals held" in out
    (audit,) = read_audits(run)
    assert audit.measured.value == pytest.approx(audit.recorded.value, rel=0.9)


def test_coverage_has_an_interval_of_its_own() -> None:
    ratio = Ratio(value=1.0, low=0.9, high=1.1)
    inside = Audit(
        date="", trial=1, objective="latency", recorded=ratio, measured=ratio, machine="", others=0
    )
    outside = dataclasses.replace(inside, measured=Ratio(value=2.0, low=1.9, high=2.1))
    audits = Audits(latest=(inside,), all=(*[inside] * 17, outside))
    assert audits.held == 17
    share, low, high = audits.coverage
    assert share == pytest.approx(17 / 18)
    assert (round(low, 2), round(high, 2)) == (0.74, 0.99)


def test_two_fronts_are_timed_in_turns_with_one_baseline(
    run: Path, turns: Turns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    trial = next(r.trial for r in search.open(other).front if r.trial != 0)
    edit_records(other, trial, "another")
    base = search.open(run).baseline.measurements["latency"].value
    turns.slower[(run / "artifacts" / "0").resolve()] = 10.0
    for folder, slower in ((run, 5.0), (other, 2.0)):
        turns.slower[(folder / "artifacts" / str(trial)).resolve()] = slower
    result = search.compare(run, other, quiet=True)
    assert not result.warnings
    assert all((run / "artifacts" / "0").resolve() == asked[0] for asked in turns.asked)
    rows = {row.name: row for row in result.rows}
    assert rows[f"A{trial}"].record.measurements["latency"].value == pytest.approx(base / 2)
    assert rows[f"B{trial}"].record.measurements["latency"].value == pytest.approx(base / 5)
    assert rows[f"A{trial}"].dominated_by == (f"B{trial}",)
    assert not rows[f"A{trial}"].on_union
    assert rows[f"B{trial}"].on_union
    volumes = result.hypervolumes
    assert volumes["A"] < volumes["B"] <= volumes["union"]
    assert main(("compare", str(run), str(other))) == 0
    assert f"dominated by B{trial}" in capsys.readouterr().out


def test_without_artifacts_two_fronts_are_compared_by_their_own_ratios_with_a_warning(
    run: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    shutil.rmtree(other / "artifacts")
    content = json.loads((other / "front.json").read_text())
    for record in (content["baseline"], *content["front"]):  # a machine at half the pace
        for end in ("value", "low", "high"):
            record["measurements"]["latency"][end] *= 2
    (other / "front.json").write_text(json.dumps(content))
    result = search.compare(run, other, quiet=True)
    assert "own baseline" in result.warnings[0]
    assert result.hypervolumes["A"] == pytest.approx(result.hypervolumes["B"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("threads = 1", "threads = 2", "their targets are"),
        ("[objectives.size]", "[objectives.memory]", "their objectives are accuracy, latency"),
    ],
)
def test_runs_on_other_scales_are_not_compared(
    run: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    text = (other / "experiment.toml").read_text()
    assert old in text
    (other / "experiment.toml").write_text(text.replace(old, new))
    with pytest.raises(BadRun, match=said):
        search.compare(run, other, quiet=True)


def test_runs_of_another_model_are_not_compared(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    content = json.loads((other / "environment.json").read_text())
    content["made_from"]["weights"] = "other"
    (other / "environment.json").write_text(json.dumps(content))
    with pytest.raises(BadRun, match="models have different weights"):
        search.compare(run, other, quiet=True)


def test_the_noise_of_a_machine_is_told_in_one_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = search.noise(seconds=0.0)  # one comparison
    assert len(found.ratios) == 1
    assert found.smallest_difference > 0
    assert 0 < found.pace[0] <= 1 <= found.pace[1]
    monkeypatch.setattr("search.api.noise", lambda: found)
    assert main(("doctor", "--noise")) == 0
    out = capsys.readouterr().out
    assert "smallest difference" in out
    assert "of 1 intervals contain 1" in out
    assert "share of the CPU used by others" in out
