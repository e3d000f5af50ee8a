"""The reference of a finished run, with which artifacts are timed in turns."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from search.experiment import Experiment
from search.measuring import Reference
from search.reporting import Summary
from search.study import reference_of


def reference_of_run(experiment: Experiment, summary: Summary, run: Path) -> Reference:
    """Return the unchanged model in its fastest runtime, as the search chose it."""
    fastest = reference_of(experiment, summary.records)
    assert fastest is not None  # a run without an unchanged model has no summary
    values = {k: m.value for k, m in summary.baseline.measurements.items()}
    reference = Reference.of({"reference": fastest.to_json(), "baseline_values": values}, run)
    assert reference is not None
    return reference
