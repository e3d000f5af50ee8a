"""The notebook runs from its first cell to its last, as a user would run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "experiments" / "first_search.ipynb"


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    body = "\n".join(f"    {line}" for source in sources for line in source.splitlines())
    script = tmp_path / "cells.py"
    script.write_text(f'if __name__ == "__main__":\n{body}\n    print(table.columns.tolist())\n')
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr
    assert "python -m search measure" in done.stdout
    assert all(c["outputs"] == [] for c in cells if c["cell_type"] == "code")
