"""What wheels hold beside Python files."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_data_file_is_package_data() -> None:
    """Each file of the product that is neither Python nor a page is named by a pattern."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = {
        file
        for package, globs in patterns["package-data"].items()
        for glob in globs
        for file in ROOT.joinpath(*package.split(".")).glob(glob)
    }
    files = {
        path
        for top in ("spaces", "objectives", "search")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md")
    }
    assert files == listed
