"""How far two ways to time the same artifacts agree: ratios, ranks, and spread of one of them."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

SHORTEST = {"cpu": 0.2}
"""Milliseconds above which the ratios of a device type are asked to agree; 0 for others."""
WITHIN = {"cpu": 0.05}
"""Largest deviation of a ratio that is asked for, by device type."""
WITHIN_ELSEWHERE = 0.03


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """What a tool reported of one process, in milliseconds of one batch."""

    median: float
    lowest: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """An artifact, timed by us and, once a round, by a tool that is not ours."""

    artifact: str
    runtime: str
    tool: str
    ours: float
    """Our value in milliseconds."""
    interval: tuple[float, float]
    """Its 95 % interval."""
    theirs: tuple[Timing, ...]


STATISTICS: Mapping[str, Callable[[Row], float]] = {
    "the lowest of the rounds' medians": lambda row: min(t.median for t in row.theirs),
    "the lowest run of all rounds": lambda row: min(t.lowest for t in row.theirs),
}
"""Milliseconds of the other tool that are compared with ours, which is also that of an undisturbed
machine. The first is the one that the tools print."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of our values with one statistic of the others'."""

    scale: float
    """Median of ours / theirs over the artifacts that are long enough to be compared, over all if
    none is: a constant factor changes no comparison of artifacts."""
    ratios: dict[str, float]
    """Ours / theirs / scale, by artifact."""
    counted: int
    """Number of artifacts that are long enough to be compared: above SHORTEST."""
    share: float | None
    """Share of these whose ratio is within the limit of 1; None if there are none."""
    pairs: float | None
    """Share of their pairs for which our ratio of the two is within the limit of theirs."""
    largest: tuple[str, float] | None
    """The one that deviates most, and its ratio."""
    tau: float | None
    """Kendall's tau over all artifacts; None for fewer than two."""
    tools: dict[str, float]
    """Median of the ratios by tool: what its way to time adds or leaves out."""


def agreement(rows: Sequence[Row], statistic: Callable[[Row], float], device: str) -> Agreement:
    """Return the agreement over all rows, of which there is at least one."""
    theirs = {row.artifact: statistic(row) for row in rows}
    plain = {row.artifact: row.ours / theirs[row.artifact] for row in rows}
    counted = [name for name in plain if theirs[name] > SHORTEST.get(device, 0.0)]
    scale = float(np.median([plain[name] for name in counted or plain]))
    ratios = {name: ratio / scale for name, ratio in plain.items()}
    long = {name: ratios[name] for name in counted}
    limit = WITHIN.get(device, WITHIN_ELSEWHERE)
    among = [a / b for a, b in itertools.combinations(long.values(), 2)]
    tools = {row.tool for row in rows}
    return Agreement(
        scale=scale,
        ratios=ratios,
        counted=len(long),
        share=_within(list(long.values()), limit),
        pairs=_within(among, limit),
        largest=max(long.items(), key=lambda i: abs(np.log(i[1])), default=None),
        tau=_tau([row.ours for row in rows], list(theirs.values())),
        tools={
            t: float(np.median([ratios[row.artifact] for row in rows if row.tool == t]))
            for t in sorted(tools)
        },
    )


def _within(ratios: Sequence[float], limit: float) -> float | None:
    """Return the share of ratios that deviate from 1 by at most `limit`, either way round."""
    if not ratios:
        return None
    return float(np.mean([max(r, 1 / r) <= 1 + limit for r in ratios]))


def _tau(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    from scipy.stats import kendalltau  # imported late: it takes a second

    return float(kendalltau(ours, theirs).statistic) if len(ours) > 1 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Spread of repeated values of one artifact."""

    count: int
    reach: float
    """Largest value over the smallest, minus 1."""
    deviation: float
    """Standard deviation as a share of the mean."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least two values above 0."""
        found = np.asarray(values)
        return cls(
            count=len(found),
            reach=float(found.max() / found.min() - 1),
            deviation=float(found.std(ddof=1) / found.mean()),
        )

    def __str__(self) -> str:
        return f"max/min - 1 = {self.reach:.2%}, standard deviation {self.deviation:.2%}"


def table(rows: Sequence[Row], device: str) -> str:
    """Return the rows as a Markdown table, the fastest first, by the first statistic."""
    name, statistic = next(iter(STATISTICS.items()))
    ratios = agreement(rows, statistic, device).ratios
    lines = [
        f"| artifact | runtime | ours, ms | theirs ({name}), ms | ratio / common scale | tool |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in sorted(rows, key=lambda row: row.ours):
        lines.append(
            f"| {row.artifact} | {row.runtime} | {row.ours:.4f} | {statistic(row):.4f} "
            f"| {ratios[row.artifact]:.3f} | {row.tool} |"
        )
    return "\n".join(lines)


def sentences(found: Mapping[str, Agreement], device: str) -> list[str]:
    """Return what was found by each statistic, one line each."""
    limit, shortest = WITHIN.get(device, WITHIN_ELSEWHERE), SHORTEST.get(device, 0.0)
    return [
        f"by {name}: {_percent(a.share)} of {a.counted} artifacts above {shortest:g} ms within "
        f"{limit:.0%}, {_percent(a.pairs)} of their pairs; largest disagreement "
        f"{f'{a.largest[1]:.3f} ({a.largest[0]})' if a.largest else 'none'}; "
        f"Kendall's tau {'unknown' if a.tau is None else f'{a.tau:.3f}'} over {len(a.ratios)}; "
        f"ours / theirs {a.scale:.3f}, relative to that by tool: "
        + ", ".join(f"{tool} {ratio:.3f}" for tool, ratio in a.tools.items())
        for name, a in found.items()
    ]


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.0%}"


def as_json(rows: Sequence[Row], found: Mapping[str, Agreement]) -> dict[str, Any]:
    """Return everything that was measured as plain data."""
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "agreement": {name: dataclasses.asdict(a) for name, a in found.items()},
    }
