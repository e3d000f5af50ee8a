"""Saved view of a study: its trials as a table, the front first, with charts of the trade-offs.

MLflow's page reads such views from tags of the experiment, which its button "Share" writes; their
content is that of MLflow 3.13 to 3.17.
"""

import json
from typing import Any

from search.records import Axis
from search.reporting import Summary
from search.tracking.runs import SIZE, name, quoted, value_key

TAG = "mlflow.sharedViewState."
_SECTION = "trade-offs"


def saved_view(summary: Summary) -> str:
    """Return the view's content as JSON."""
    return json.dumps(
        {
            "searchFilter": f"tags.study = '{quoted(summary.key)}' and tags.role != 'study'",
            "orderByKey": "tags.`front`",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": _columns(summary),
            "runsHiddenMode": "SHOW_ALL",
            "hideEmptyCharts": True,
            # otherwise the page sorts its own charts before these
            "isAccordionReordered": True,
            "compareRunCharts": _charts(summary),
            "compareRunSections": [
                {
                    "uuid": _SECTION,
                    "name": "Trade-offs",
                    "display": True,
                    "isReordered": False,
                    "deleted": False,
                    "isGenerated": False,
                }
            ],
        },
        separators=(",", ":"),
    )


def _columns(summary: Summary) -> list[str]:
    """Return what tells which one to ship: objectives, gains, size, runtime and point."""
    metrics = [*(key for axis in summary.axes for key in _keys(axis)), SIZE]
    tags = ("front", "picks", "runtime", "point")
    return [*(f"metrics.`{key}`" for key in metrics), *(f"tags.`{tag}`" for tag in tags)]


def _keys(axis: Axis) -> list[str]:
    """Return the metrics that tell an objective and, for times, the speed-up."""
    return [value_key(axis), *(["speedup"] if axis.is_time else [])]


def _charts(summary: Summary) -> list[dict[str, Any]]:
    """Return a scatter of the first two objectives and the parallel coordinates of all."""
    common = {"metricSectionId": _SECTION, "deleted": False, "isGenerated": False}
    objectives = [value_key(axis) for axis in summary.axes]
    charts: list[dict[str, Any]] = []
    if len(objectives) > 1:
        across, up = _across(summary)
        charts.append(
            {
                "uuid": "scatter",
                "type": "SCATTER",
                "runsCountToCompare": 100,
                "xaxis": {"key": value_key(across), "type": "METRIC"},
                "yaxis": {"key": value_key(up), "type": "METRIC"},
                **common,
            }
        )
    charts.append(
        {
            "uuid": "parallel",
            "type": "PARALLEL",
            "runsCountToCompare": 100,
            "selectedParams": [name(parameter) for parameter in summary.dimensions][:8],
            "selectedMetrics": objectives,
            "showAllRuns": False,
            **common,
        }
    )
    return charts


def _across(summary: Summary) -> tuple[Axis, Axis]:
    """Return the axes of the scatter: what is paid across, what is got for it upwards."""
    paid = next((axis for axis in summary.axes if axis.positive), summary.axes[0])
    gained = next(axis for axis in summary.axes if axis is not paid)
    return paid, gained
