"""Sentences about the effort of a search: what was probed, scored, trained, and saved."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from search.records import Record

STAGES = {
    "statistics": "statistics of the model",
    "shape": "an edited model",
    "probe": "a measurement before training",
    "train": "a training",
}
"""What was taken from an earlier trial, by stage."""


def stages(records: Sequence[Record]) -> str:
    """Return the sentence that counts the trials by the stage that they came to."""
    tried = [r for r in records if r.state != "infeasible"]
    scored = [r for r in tried if r.state == "complete"]
    trained = [r for r in tried if "train" in (r.facts.seconds or {})]
    return (
        f"Of {len(tried)} trials {sum(bool(r.measurements) for r in tried)} were probed, "
        f"{len(scored)} scored, {len(trained)} trained."
    )


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
