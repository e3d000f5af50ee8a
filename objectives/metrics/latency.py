"""Latency: the time of one batch, undisturbed or as a percentile, in milliseconds."""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from objectives.intervals import Turns, of_processes, of_ratios
from objectives.objective import Direction, Measurement, TimedObjective
from objectives.percentiles import paced, percentile_of, runs_needed, told
from objectives.runtime import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency(TimedObjective):
    """Time of one batch at the target, in milliseconds, undisturbed or as a percentile of runs.

    A percentile is that of single runs relative to the pace of the machine, and is only reported
    with as many runs as MLPerf's early stopping asks for: 64 for the 90th, 662 for the 99th.

    On several devices it is the time of a batch that all of them compute together; for replicas,
    the time of one replica's batch while the other replicas are busy too.
    """

    unit = "ms"
    direction = Direction.MINIMIZE
    is_time = True
    better = ("faster", "slower")
    superlative = "fastest"
    percentile: float = 0
    """Share of the single runs, in percent, that take no longer: 50, 90, 99. 0 is the time on an
    undisturbed machine, without any tail."""

    def __post_init__(self) -> None:
        if self.percentile and not 50 <= self.percentile < 100:
            raise ValueError(
                f"percentile must be 0 for the time on an undisturbed machine, or from 50 to below "
                f"100, got {self.percentile:g}"
            )

    @property
    def least_runs(self) -> int:
        """The runs that bound the percentile, 0 without one."""
        return runs_needed(self.percentile) if self.percentile else 0

    def observe(self, program: Program, batches: Sequence[Any], seconds: float) -> list[float]:
        """Return the milliseconds of single runs, until `seconds` have passed."""
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            times.append(1e3 * program.seconds(batches[len(times) % len(batches)]))
        return times

    def summary(self, series: Sequence[Turns], device: str = "cpu") -> Measurement:
        """Summarise runs as in TimedObjective, or as their percentile if there is one.

        The interval of a percentile covers its bounds by the number of runs, and the spread of the
        processes. Raises TooFewRuns, and ValueError if an observation is not above 0.
        """
        if not self.percentile:
            return super().summary(series, device)
        runs = [list(itertools.chain.from_iterable(turns)) for turns in series]
        self.require_positive(series)
        _, *processes = of_processes(
            [float(np.quantile(r, self._share)) for r in runs], (0.0,), device
        )
        pooled = percentile_of(itertools.chain.from_iterable(runs), self.percentile)
        return self._measurement(pooled, processes, sum(map(len, runs)))

    def relative(
        self,
        series: Sequence[Turns],
        reference_series: Sequence[Turns],
        reference_value: float,
        device: str = "cpu",
    ) -> Measurement:
        """Summarise runs taken in turns as in TimedObjective, or as a percentile if there is one.

        Each run is divided by the reference's best run of the same turn. The value is the
        percentile of these ratios over the same percentile of the reference's own, times
        `reference_value`. Raises TooFewRuns, and ValueError if an observation is not above 0.
        """
        if not self.percentile:
            return super().relative(series, reference_series, reference_value, device)
        self.require_positive([*series, *reference_series])
        pairs = list(zip(series, reference_series, strict=True))
        runs = [paced(own, other) for own, other in pairs]
        scale = self._best(reference_series, reference_value)
        values = [scale * float(np.quantile(r, self._share)) for r in runs]
        _, *processes = of_ratios(values, (0.0,), device)
        pooled = percentile_of(itertools.chain.from_iterable(runs), self.percentile)
        scaled = [scale * end for end in pooled]
        return self._measurement(scaled, processes, sum(map(len, runs)))

    def percentiles(
        self,
        series: Sequence[Turns],
        reference_series: Sequence[Turns],
        reference_value: float | None,
    ) -> dict[str, float]:
        """Return milliseconds by percentile of runs that were timed, as `percentiles.told` does.

        `reference_value` is the objective's value of the reference, None without one.
        """
        if reference_value is None:
            return told(series, (), 1.0)
        return told(series, reference_series, self._best(reference_series, reference_value))

    def _best(self, reference_series: Sequence[Turns], reference_value: float) -> float:
        """Return the milliseconds of the reference's best runs, if its value is the objective's."""
        if not self.percentile:
            return reference_value
        runs = itertools.chain.from_iterable(paced(turns, turns) for turns in reference_series)
        return reference_value / percentile_of(runs, self.percentile)[0]

    @property
    def _share(self) -> float:
        return self.percentile / 100

    def _measurement(
        self, pooled: Sequence[float], processes: Sequence[float], samples: int
    ) -> Measurement:
        """Return the percentile of all runs with an interval that covers both kinds of bounds."""
        value, low, high = pooled
        return Measurement(
            value=value,
            unit=self.unit,
            low=min(low, *processes),
            high=max(high, *processes),
            samples=samples,
        )
