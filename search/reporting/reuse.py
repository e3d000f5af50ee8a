"""Tell in one sentence what results of earlier trials saved a search."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from search.records import Record

STAGES = {
    "statistics": "statistics of the model",
    "shape": "an edited model",
    "probe": "a measurement before training",
    "train": "a training",
}
"""What was taken from an earlier trial, by stage."""


def reuse(records: Iterable[Record]) -> str | None:
    """Return the sentence with minutes and counts by stage; None if nothing was used again."""
    seconds: defaultdict[str, float] = defaultdict(float)
    trials: Counter[str] = Counter()
    for record in records:
        for stage, saved in (record.facts.saved or {}).items():
            seconds[stage] += saved
            trials[stage] += 1
    if not trials:
        return None
    parts = [
        f"{STAGES.get(stage, stage)} {_times(trials[stage])} ({_span(seconds[stage])})"
        for stage in sorted(trials, key=lambda stage: -seconds[stage])
    ]
    return f"Results of earlier trials saved {_span(sum(seconds.values()))}: {', '.join(parts)}."


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
