"""The reference of a finished run, with which artifacts are timed in turns."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from search.measuring import Reference
from search.records import Record
from search.reporting import Summary


def fastest_unchanged(summary: Summary, run: Path) -> Reference:
    """Return the fastest of the run's unchanged models, as the search does."""
    baseline = summary.baseline
    name = next(iter(baseline.measurements.keys() - {"accuracy", "size"}))
    changed = {"deploy.runtime.name"}

    def unchanged(record: Record) -> bool:
        return record.artifact is not None and all(
            record.point[k] == v for k, v in baseline.point.items() if k not in changed
        )

    fastest = min(
        (r for r in summary.records if unchanged(r)), key=lambda r: r.measurements[name].value
    )
    values = {k: m.value for k, m in baseline.measurements.items()}
    reference = Reference.of({"reference": fastest.to_json(), "baseline_values": values}, run)
    assert reference is not None
    return reference
