"""What users bring of their own: entries in a file of theirs, or in an installed package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import search
from objectives import Runtime
from search import catalogue
from search.errors import BadEnvironment, BadExperiment, UnknownName
from search.experiment.experiment import Experiment
from spaces import Technique, Unreachable, address_of, resolve

MINE = "\n".join(
    block
    for package in ("spaces", "objectives", "search")
    for block in re.findall(
        r"```python\n(.*?)```",
        (Path(__file__).parents[2] / package / "README.md").read_text(),
        flags=re.DOTALL,
    )
)
"""The examples of the packages' READMEs: an entry of each catalogue."""
EXPERIMENT = """
name = "mine"
trials = 5
[task.python]
file = "task.py"
[space."parts/mine.py:Scaled"]
[space.deploy.runtime]
name = ["parts/mine.py:Slow", "null"]
[objectives.accuracy]
[objectives.latency]
seconds = 0.01
[objectives."parts/mine.py:Files"]
at_most = 9
[sampler."parts/mine.py:Chance"]
offset = 3
[executor."parts/mine.py:Counted"]
file = "counted.txt"
"""


@pytest.fixture
def mine(project: Path) -> Path:
    (project / "parts").mkdir()
    (project / "parts" / "mine.py").write_text(MINE)
    (project / "experiment.toml").write_text(EXPERIMENT)
    return project


def test_entries_of_a_users_file_are_searched_measured_and_exported(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mine / 'mlflow.db'}")
    monkeypatch.chdir(mine.parent)  # paths start at the experiment, wherever it is run from
    result = search.run(mine / "experiment.toml", out=mine / "run", quiet=True)
    assert result.confirmed
    assert (mine / "run" / "counted.txt").read_text() >= "1"
    runtimes = {r.runtime: r.measurements["latency"].value for r in result.records}
    assert runtimes["parts/mine.py:Slow"] > 10 * runtimes["null"]
    assert {r.point["parts/mine.py:Scaled.power"] for r in result.records} > {0}
    scores = {r.measurements["accuracy"].value for r in result.records}
    assert len(scores) == 1
    member = result.pick("tidiest")
    assert member.record.measurements["parts/mine.py:Files"].unit == "files"
    measured = search.measure(member.export(mine / "elsewhere" / "model")).measurements
    assert measured["accuracy"].value in scores


def test_an_artifact_of_a_users_runtime_is_measured_from_any_folder(
    mine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (mine / "experiment.toml").write_text(
        EXPERIMENT.replace('["parts/mine.py:Slow", "null"]', '["parts/mine.py:Slow"]').replace(
            "trials = 5", "trials = 2"
        )
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mine / 'mlflow.db'}")
    result = search.run(mine / "experiment.toml", out=mine / "run", quiet=True)
    slow = next(r for r in result.records if "Slow" in r.runtime and r.state == "complete")
    (tmp_path / "far").mkdir()
    monkeypatch.chdir(tmp_path / "far")
    assert search.measure(mine / "run" / str(slow.artifact)).measurements["latency"].value > 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mine.py:Scaled", "mien.py:Scaled", "there is no file"),
        ("mine.py:Scaled", "mine.py:Scaledd", "has no attribute 'Scaledd'"),
        ("mine.py:Scaled", "mine.py:Files", "must be a class that extends spaces.Technique"),
        ("mine.py:Files", "mine.py:Scaled", "must be a class that extends objectives.Objective"),
    ],
)
def test_what_is_wrong_with_a_users_entry_is_one_line(
    mine: Path, old: str, new: str, said: str
) -> None:
    file = mine / "experiment.toml"
    file.write_text(file.read_text().replace(f"parts/{old}", f"parts/{new}"))
    with pytest.raises(BadExperiment) as caught:
        Experiment.load(file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    unit, ", "    _, ", "lacks the class attribute 'unit': see objectives.objective"),
        (
            "@dataclasses.dataclass(frozen=True, kw_only=True)\nclass Scaled",
            "class Scaled",
            "declares 'power' but is no dataclass",
        ),
    ],
)
def test_what_a_users_class_lacks_is_named(mine: Path, old: str, new: str, said: str) -> None:
    file = mine / "parts" / "mine.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(BadExperiment, match=said):
        Experiment.load(mine / "experiment.toml")


def test_a_users_file_that_fails_is_one_line(mine: Path) -> None:
    (mine / "parts" / "mine.py").write_text("import nothing_of_this_name")
    with pytest.raises(BadExperiment, match="cannot be loaded: ModuleNotFoundError: No module"):
        Experiment.load(mine / "experiment.toml")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers a technique and a runtime by entry points."""
    place = tmp_path / "site"
    (place / "tidy_pruning-1.0.dist-info").mkdir(parents=True)
    (place / "tidy_pruning.py").write_text(MINE)
    points = "[paretune.techniques]\nprune.tidy = tidy_pruning:Scaled\n"
    points += "[paretune.runtimes]\nslow = tidy_pruning:Slow\n"
    info = place / "tidy_pruning-1.0.dist-info"
    (info / "entry_points.txt").write_text(points)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tidy-pruning\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(place)


@pytest.mark.usefixtures("installed")
def test_entries_of_installed_packages_have_names_as_ours() -> None:
    assert "prune.tidy" in catalogue.names("technique")
    assert "slow" in catalogue.names("runtime")
    kind = catalogue.find("technique", "prune.tidy", Technique)
    assert catalogue.name_of("technique", kind) == "prune.tidy"
    assert catalogue.find("runtime", "slow", Runtime)().reads
    with pytest.raises(UnknownName, match=r"Did you mean 'prune\.tidy'"):
        catalogue.entry("technique", "prune.tdy")
    space = search.Experiment(
        task="tests" and {"digits": {}},
        space={"prune": {"tidy": {}}, "deploy.runtime": {}},
        objectives={"size": {}},
    ).space
    assert "slow" in (space.dimensions()["deploy.runtime.name"].values() or ())
    assert "prune.tidy.power" in space.dimensions()


@pytest.mark.parametrize("kind", catalogue.CATALOGUES)
def test_names_lead_to_classes_and_back(kind: str) -> None:
    for name in catalogue.names(kind):
        try:
            found = catalogue.entry(kind, name)
        except BadEnvironment:  # its library is an extra: see test_extras.py
            assert name in ("lightning", "timm", "torchvision", "xla")
            continue
        assert catalogue.name_of(kind, found) == name


def test_a_class_of_a_script_is_found_in_its_file_and_one_of_a_session_is_not(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.py"
    code = "from spaces import address_of\nclass Mine: ...\nprint(address_of(Mine))\n"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{script}:Mine"
    (tmp_path / "other.py").write_text("class Mine: ...\n")
    other = resolve("other.py:Mine", tmp_path)
    assert address_of(other, tmp_path) == "other.py:Mine"
    session = [sys.executable, "-c", code.replace("print", "try: print") + "except ValueError: 0"]
    assert subprocess.run(session, capture_output=True, text=True, check=True).stdout == ""
    with pytest.raises(Unreachable, match="other processes cannot import it"):
        address_of(type("Made", (), {"__module__": "__main__", "__qualname__": "f.Made"}))
