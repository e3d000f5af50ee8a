"""The README stays short and true: its commands parse, its files and names exist."""

import re
import shlex
from pathlib import Path

import pytest

from search import catalogue
from search.cli import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"python -m search[^\n`#&]*", README)


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_parses(command: str) -> None:
    words = shlex.split(command)[3:]
    assert words, "a bare `python -m search` is no command"
    parsed = parser.parser().parse_args(words)
    assert callable(parsed.do)


def test_every_command_runs_in_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "pip install -q -c constraints.txt -e '.[test]'" in script
    assert "python -m pytest" in script.splitlines()[-1]
    for name in {shlex.split(c)[3] for c in COMMANDS}:
        assert f"python -m search {name}" in script, name


def test_every_picture_and_technique_it_names_exists() -> None:
    for path in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"^\| `([\w.]+)`", README, flags=re.MULTILINE):
        assert name in catalogue.names("technique"), name


def test_nothing_else_lies_at_the_top() -> None:
    allowed = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "constraints.txt",
        "search",
        "spaces",
        "objectives",
        "tests",
        "experiments",
        "runs",
        "build",
    }
    for path in ROOT.iterdir():
        hidden = path.name.startswith(".") or path.suffix == ".egg-info"
        assert hidden or path.name in allowed or path.name.startswith("ml"), path
