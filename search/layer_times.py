"""Layers alone, each in an artifact of its own, timed in turns in one fresh process."""

import contextlib
import dataclasses
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from objectives import Program
from objectives._artifact import load, manifest_of
from objectives._lane import exclusive
from objectives._statistics import of_median
from objectives.runtimes._runtime import Runtime
from search import catalogue
from spaces import Split, Task
from spaces.quantize._kinds import Kind

ROUNDS = (15, 80)
"""Least and most rounds in which every layer is run once."""
SECONDS = 3.0
"""Time after which no round is begun once the least are done."""
WARM = 3
"""Rounds that are not counted: the first runs allocate memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alone(Task):
    """The task of a model of one layer: what runtimes rebuild its module from."""

    kind: Kind

    def model(self) -> nn.Module:
        """Return the layer, the same values every time."""
        return self.kind.model()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Yield nothing: a layer is not scored."""
        del split, batch_size
        return iter(())

    def describe(self) -> dict[str, str]:
        """Return the layer's kind."""
        return {"name": str(self.kind)}


def timed(artifacts: Sequence[Path], kinds: Sequence[Kind], device: str) -> list[dict[str, float]]:
    """Return the median milliseconds of each artifact with its interval, the lane held meanwhile.

    Layers take turns run by run, in another order every round: a disturbance meets all alike,
    and a layer finds the caches as it does in a model, full of other layers' weights.
    """
    with contextlib.ExitStack() as stack:
        programs = []
        for artifact, kind in zip(artifacts, kinds, strict=True):
            program = stack.enter_context(_opened(artifact, kind))
            programs.append((program, program.feed([kind.inputs()])))
        stack.enter_context(exclusive(device))
        seen = _observed(programs)
    return [_summary(times) for times in seen]


def _opened(artifact: Path, kind: Kind) -> Program:
    name = manifest_of(artifact)["runtime"]
    runtime = catalogue.find("objectives.runtimes", name, Runtime)()
    return load(artifact, runtime, Alone(kind=kind))


def _observed(programs: Sequence[tuple[Program, Any]]) -> list[list[float]]:
    """Return the milliseconds of each program's runs."""
    seen: list[list[float]] = [[] for _ in programs]
    order, shuffle = list(range(len(programs))), random.Random(0)
    least, most = ROUNDS
    end = time.perf_counter() + SECONDS
    for done in range(WARM + most):
        if done >= WARM + least and time.perf_counter() > end:
            break
        shuffle.shuffle(order)
        for index in order:
            program, feed = programs[index]
            seen[index].append(1e3 * program.seconds(feed))
    return [times[WARM:] for times in seen]


def _summary(times: Sequence[float]) -> dict[str, float]:
    low, high = of_median(times)
    return {"value": float(np.median(times)), "low": low, "high": high}
