"""READMEs of the packages: one line a file, and examples that are entries of their catalogues.

`python tests/test_package_readmes.py` writes the lists of files anew.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("spaces", "objectives", "search")
LIST = re.compile(r"(?<=<!-- files -->\n).*(?=<!-- /files -->)", flags=re.DOTALL)
QUESTION = re.compile(r"(What|How|Where|Which|Why|Whether|When|Who)\b")


def title(path: Path) -> str:
    """Return the first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def files(folder: Path) -> list[tuple[str, str]]:
    """Return (name, title) of each file below `folder`, indented, files before folders."""
    entries: list[tuple[str, str]] = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.suffix == ".py" and path.name != "__init__.py":
            entries.append((path.name, title(path)))
        if (path / "__init__.py").is_file():
            inner = [(f"  {name}", text) for name, text in files(path)]
            entries += [(f"{path.name}/", title(path / "__init__.py")), *inner]
    return entries


def tree(package: str) -> str:
    """Return the list of a package's files as it stands in the README."""
    entries = files(ROOT / package)
    width = max(len(name) for name, _ in entries)
    return "".join(["```text\n", *(f"{n:{width}}  {t}\n" for n, t in entries), "```\n"])


@pytest.mark.parametrize("package", PACKAGES)
def test_the_list_of_files_is_true(package: str) -> None:
    text = (ROOT / package / "README.md").read_text()
    assert LIST.findall(text) == [tree(package)], "run python tests/test_package_readmes.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_has_a_title_that_names_it(package: str) -> None:
    titles = files(ROOT / package)
    for name, text in titles:
        assert text.endswith("."), name
        assert not QUESTION.match(text), name
    assert len({text for _, text in titles}) == len(titles)


@pytest.mark.parametrize("package", PACKAGES)
def test_its_links_exist(package: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / package / "README.md").read_text()):
        assert (ROOT / package / link).is_file(), link
    for path in re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / package / "README.md").read_text()):
        assert (ROOT / path).is_file(), path


if __name__ == "__main__":
    for package in PACKAGES:
        readme = ROOT / package / "README.md"
        before, after = LIST.split(readme.read_text())
        readme.write_text(before + tree(package) + after)
