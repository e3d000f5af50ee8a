"""Write a task and an experiment to fill in, for `python -m search init`."""

from pathlib import Path

from search import catalogue
from search.errors import BadExperiment

TEMPLATES = {"task.py": "first_task.txt", "experiment.toml": "first_experiment.toml"}
"""Files that are written, and the files of this project with their content."""


def start(folder: Path) -> str:
    """Write task.py and experiment.toml into a folder; return what to do with them.

    Raises BadExperiment if one of them exists: nothing is written then.
    """
    if folder.exists() and not folder.is_dir():
        raise BadExperiment(f"{folder} is a file: give a folder")
    for name in TEMPLATES:
        if (folder / name).exists():
            raise BadExperiment(
                f"{folder / name} exists and is not overwritten: give another folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    source = catalogue.home("search.experiment")
    for name, template in TEMPLATES.items():
        (folder / name).write_text((source / template).read_text())
    return (
        f"fill in  {folder / 'task.py'}\n"
        f"then     python -m search check {folder / 'experiment.toml'}\n"
        f"         python -m search run {folder / 'experiment.toml'}"
    )
