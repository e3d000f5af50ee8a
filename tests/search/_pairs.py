"""Pairs of techniques on a small network, and which runtimes execute what they ask for."""

import dataclasses
import itertools
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from objectives import Runtime
from search import catalogue
from search.errors import BadEnvironment
from search.experiment.experiment import Experiment
from search.experiment.feasibility import kinds_of, refusal
from spaces import Point, Technique
from spaces.plan import Recovery
from spaces.training.mixed_precision import refusal as refusal_to_train

TASK = """
import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


def model():
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*stem, nn.Flatten(), Residual(64), Residual(64), nn.Linear(64, 4))


def batches(split, batch_size):
    generator = torch.Generator().manual_seed(len(split))
    inputs = torch.randn(64, 3, 8, 8, generator=generator)
    for rows in torch.arange(64).split(batch_size):
        yield inputs[rows], rows % 4


def score(outputs, targets):
    if not outputs.isfinite().all():
        raise ValueError("the outputs are not finite")
    return float((outputs.argmax(1) == targets).float().mean())
"""
BFLOAT16 = Recovery(steps=1, dtype="bfloat16")
CHOSEN: dict[str, Point] = {
    "prune.channels": {"ratio": 0.25},
    "distill.logits": {"steps": 3, "temperature": 4.0},
    "precision.training": {"dtype": "float32" if refusal_to_train(BFLOAT16, "cpu") else "bfloat16"},
}
"""Settings of techniques whose first usual one takes long, or is not for every machine."""


def setting_of(name: str) -> Point:
    """Return a setting of a technique that does something: its first usual one."""
    kind = catalogue.find("technique", name, Technique)
    fields = [f.name for f in dataclasses.fields(kind) if "dimension" in f.metadata]
    usual = kind().usual() or _alone(kind)
    return {f: getattr(usual[0], f) for f in fields if getattr(usual[0], f) != getattr(kind(), f)}


def _alone(kind: type[Technique]) -> list[Technique]:
    """Return settings with one value that is not neutral."""
    settings = [
        dataclasses.replace(kind(), **{f.name: value})
        for f in dataclasses.fields(kind)
        if "dimension" in f.metadata
        for value in f.metadata["dimension"].values() or ()
    ]
    return [setting for setting in settings if setting.canonical() != kind()]


SETTINGS: dict[str, Point] = {
    name: CHOSEN.get(name) or setting_of(name)
    for name in catalogue.names("technique")
    if name != "deploy.runtime"
}
"""One setting of each technique."""


def letters(names: list[str]) -> dict[str, str]:
    """Return for each runtime the first letter of its name that no other has yet."""
    chosen: dict[str, str] = {}
    for name in names:
        chosen[name] = next(letter for letter in name if letter not in chosen.values())
    return chosen


def _usual(name: str) -> bool:
    try:
        return catalogue.find("runtime", name, Runtime).usual
    except BadEnvironment:  # its packages are an extra
        return False


RUNTIMES = letters([name for name in catalogue.names("runtime") if _usual(name)])
"""With the letter that stands for each in the matrix."""
HARDWARE = ("precision.compute", "precision.training", "placement.devices")
"""Techniques that some machines have no hardware for."""


def experiment(folder: Path) -> Experiment:
    """Return an experiment over all techniques, its task written into `folder`."""
    (folder / "task.py").write_text(TASK)
    space: dict[str, dict[str, Any]] = {"deploy.runtime": {"name": list(RUNTIMES)}}
    for name, setting in SETTINGS.items():
        neutral = catalogue.find("technique", name, Technique)()
        space[name] = {f: [getattr(neutral, f), value] for f, value in setting.items()}
    return Experiment(
        name="pairs",
        task={"python": {"file": "task.py"}},
        target={"batch_size": 32},
        space={name: space[name] for name in [*SETTINGS, "deploy.runtime"]},
        objectives={"accuracy": {}, "size": {}},
        folder=folder,
    )


def pairs() -> Iterator[tuple[str, str]]:
    """Yield each pair of techniques once."""
    yield from itertools.combinations(SETTINGS, 2)


def point(given: Experiment, pair: tuple[str, str], runtime: str) -> Point:
    """Return the point of a pair in a runtime, with the few steps of training all have."""
    own = {f"{n}.{f}": v for n in (*pair, "distill.logits") for f, v in SETTINGS[n].items()}
    whole = {**given.space.neutral(), **own, "deploy.runtime.name": runtime}
    return given.space.canonical(whole)


def refused(given: Experiment, pair: tuple[str, str], runtime: str) -> str | None:
    """Return why a runtime does not execute a pair."""
    asked = given.space.plan(point(given, pair, runtime))
    return refusal(given, asked, kinds_of(given.task.model()))


def matrix(given: Experiment, names: Collection[str] = tuple(SETTINGS)) -> list[str]:
    """Return the lines of a Markdown table: the letters of the runtimes that execute a pair.

    Techniques that combine alike with all others stand in one row. Those that need hardware are
    left out: the table is the same on every machine.
    """
    names = [name for name in SETTINGS if name in names and name not in HARDWARE]
    cells = {frozenset(p): _letters(given, p) for p in itertools.combinations(names, 2)}

    def alike(one: str, other: str) -> bool:
        rest = [name for name in names if name not in (one, other)]
        return all(cells[frozenset((one, n))] == cells[frozenset((other, n))] for n in rest)

    groups: list[list[str]] = []
    for name in names:
        home = next((g for g in groups if all(alike(name, member) for member in g)), None)
        groups.append([name]) if home is None else home.append(name)
    titles = [", ".join(f"`{name}`" for name in group) for group in groups]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(groups) + 1) + "|"]
    for title, row in zip(titles, groups, strict=True):
        found = [
            {cells[frozenset((a, b))] for a in row for b in column if a != b} for column in groups
        ]
        shown = [" or ".join(sorted(each)) for each in found]
        lines.append(f"| {title} | {' | '.join(shown)} |")
    return lines


def _letters(given: Experiment, pair: tuple[str, str]) -> str:
    return "".join(a for r, a in RUNTIMES.items() if not refused(given, pair, r)) or "none"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print("\n".join(matrix(experiment(Path(place)))))
