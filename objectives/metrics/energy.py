"""Energy: joules per sample, from the counters of the processor or of the GPU."""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from objectives.host import POWERCAP, EnergyCounter, Nvml, Rapl, Unreadable
from objectives.objective import Direction, TimedObjective
from objectives.runtime import Program
from objectives.target import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Energy(TimedObjective):
    """Joules per sample in a stream of batches of the target's size.

    On a CPU the whole processor package counts, on a GPU the whole board: idle power too, and what
    other programs spend there meanwhile. So it is the energy of a machine that does nothing else.
    The host of a GPU does not count, nor does the memory of a CPU.
    """

    unit = "J"
    direction = Direction.MINIMIZE
    better = ("less energy", "more energy")
    superlative = "most-frugal"
    seconds: float = 3.0
    counters: str = str(POWERCAP)
    """Folder of Linux in which the processor's counters are files."""

    def refuses(self, target: Target, kinds: frozenset[str]) -> str | None:
        """Reason why this machine's counters cannot be read; None if they can."""
        del kinds
        try:
            self._counter(target.device, 1).read()
        except Unreadable as error:
            return str(error)
        return None

    def observe(self, program: Program, batches: Sequence[Any], seconds: float) -> list[float]:
        """Return the joules per sample over a stream, as the power over the samples per second.

        It is long enough for many updates of the counter. Raises ValueError if the counter cannot
        be read.
        """
        try:
            counter = self._counter(program.target.device, program.devices)
            before, start = counter.read(), time.perf_counter()
            rates = program.stream(batches, max(seconds, counter.window))
            elapsed, after = time.perf_counter() - start, counter.read()
            watts = counter.joules(before, after) / elapsed
        except Unreadable as error:
            raise ValueError(str(error)) from error
        return [watts / (statistics.fmean(rates) * program.target.batch_size)]

    def _counter(self, device: str, count: int) -> EnergyCounter:
        """Return the counter of a device type; raises Unreadable if there is none."""
        if device == "cpu":
            return Rapl(folder=Path(self.counters))
        if device == "cuda":
            return Nvml(count=count)
        raise Unreadable(f"no energy counter of {device} devices is known")
