"""The page for trust: each claim names tests that exist, and each command on it parses."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from search.cli import parser

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "search" / "TRUST.md").read_text()
TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")
NAMED = sorted(set(TEST.findall(PAGE)))
CLAIMS = re.findall(r"^- \*\*.*?(?=^- |^#|\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_every_claim_names_a_test() -> None:
    assert len(CLAIMS) >= 20
    for claim in CLAIMS:
        assert TEST.search(claim), claim


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_on_the_page_exists(file: str) -> None:
    found = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.ClassDef):
            inner = (n for n in node.body if isinstance(n, ast.FunctionDef))
            found |= {f"{node.name}::{n.name}" for n in inner}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    wanted = {name for path, name in NAMED if path == file}
    assert all(name.rpartition("::")[2].startswith("test_") for name in wanted)
    assert wanted <= found, wanted - found


def test_every_command_on_the_page_parses() -> None:
    commands = re.findall(r"`python -m search ([^`]+)`", PAGE)
    assert len(commands) >= 5
    for command in commands:
        assert callable(parser.parser().parse_args(shlex.split(command)).do)


def test_no_line_is_longer_than_those_of_the_readme() -> None:
    assert max(map(len, PAGE.splitlines())) <= 120
