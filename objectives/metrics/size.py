"""Size: the bytes of the artifact's files."""

import dataclasses

from objectives.examples import Examples
from objectives.objective import Direction, Measurement, Objective
from objectives.runtime import Program

_BESIDE = ("manifest.json", "README.md")
"""Files that describe an artifact and are no part of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size(Objective):
    """Bytes of the artifact's files, without its manifest and the README of an exported one."""

    unit = "bytes"
    direction = Direction.MINIMIZE
    trained = False
    positive = True
    better = ("smaller", "larger")
    superlative = "smallest"

    def measure(self, program: Program, examples: Examples) -> Measurement:
        """Measure the exact number of bytes."""
        del examples
        files = (p for p in program.folder.rglob("*") if p.is_file() and p.name not in _BESIDE)
        total = float(sum(p.stat().st_size for p in files))
        return Measurement(value=total, unit=self.unit, low=total, high=total, samples=1)
