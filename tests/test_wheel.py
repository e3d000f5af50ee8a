"""The built wheel alone, in an environment and a folder that know nothing of this checkout."""

import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts of a new environment with the wheel in it; its dependencies are this one's."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("paretune-*.whl")
    venv.create(folder / "venv", with_pip=False)
    scripts = folder / "venv" / "bin"
    (place,) = (folder / "venv").rglob("site-packages")
    # of a folder that is named so, .pth files have no say: an editable install stays out of it
    (place / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    install = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "-q"]
    subprocess.run([*install, "--no-deps", "--ignore-installed", str(wheel)], check=True)
    return scripts


def test_the_default_runs_from_any_folder(environment: Path, tmp_path: Path) -> None:
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    own["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def run(program: str, *arguments: str) -> str:
        command = [str(environment / program), *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=own, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    used = run("python", "-c", "import search; print(search.__file__)")
    assert "site-packages/search/__init__.py" in used
    front = run("python", "-m", "search", "run", "--trials", "3")
    assert front.splitlines()[1].startswith("baseline")
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()
    assert run("paretune", "run", "--trials", "3") == front
