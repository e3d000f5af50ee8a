"""Output of the commands as text or JSON, and the MLflow UI."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from search import catalogue, run_folder
from search.measuring import ArtifactMeasurements
from search.reporting import front_table
from search.result import Member, Result
from search.tracking import addresses
from spaces import Dimension, Entries, Interval, Technique


def format_front(result: Result, *, as_json: bool) -> str:
    """Return a front as a table or as JSON."""
    return _json(result.to_json()) if as_json else front_table(result.summary)


def export_member(member: Member, to: Path) -> str:
    """Copy a member's artifact to a new folder; return its description as JSON."""
    record = member.record
    values = {name: m.to_json() for name, m in record.measurements.items()}
    content = {"trial": record.trial, "runtime": record.runtime, "point": record.point}
    return _json({"artifact": str(member.export(to)), **content, "measurements": values})


def register_members(result: Result, pick: str | None, name: str) -> str:
    """Register one pick of a front in MLflow, or all; return the versions and how to serve one."""
    from search.tracking import registry  # late: MLflow takes seconds to import

    words = [pick] if pick else list(result.summary.picked) or ["knee"]
    tracking = run_folder.read_tracking(result.folder)
    versions = registry.register({word: result.pick(word) for word in words}, name, tracking)
    store = addresses.redact(tracking["store"])
    command = f"mlflow models serve -m models:/{name}@{versions[0].aliases[0]} --env-manager local"
    return _json(
        {
            "model": name,
            "versions": [dataclasses.asdict(version) for version in versions],
            "serve": f"MLFLOW_TRACKING_URI={store} {command}",
        }
    )


def format_measurements(result: ArtifactMeasurements, split: str) -> str:
    """Return the measurements of an artifact as JSON."""
    values = {name: m.to_json() for name, m in result.measurements.items()}
    content: dict[str, Any] = {"split": split, "measurements": values}
    if result.processes:
        content["processes"] = result.processes
    if result.placement:
        content["placement"] = result.placement
    return _json(content)


def list_names(*, as_json: bool) -> str:
    """Return all names that an experiment can use, with dimensions, units and values."""
    techniques: dict[str, Any] = {
        name: {
            f.name: {"values": _values(f.metadata["dimension"]), "unit": f.metadata["unit"]}
            for f in dataclasses.fields(catalogue.find("technique", name, Technique))
            if "dimension" in f.metadata
        }
        for name in catalogue.names("technique")
    }
    others = {f"{k}s": catalogue.names(k) for k in catalogue.CATALOGUES if k != "technique"}
    if as_json:
        return _json({"techniques": techniques, **others})
    lines = ["techniques  [space.NAME]"]
    for name, fields in techniques.items():
        lines.append(f"  {name}")
        lines += [f"    {f:<18} {d['values']}  ({d['unit']})" for f, d in fields.items()]
    lines += [f"{kind}  {', '.join(names)}" for kind, names in others.items()]
    return "\n".join(lines)


def ui(folder: Path | None, port: int) -> NoReturn:
    """Replace this process by the server of the MLflow UI, so that signals reach the server."""
    address = run_folder.read_tracking(folder) if folder else {}
    command = addresses.ui_command(address.get("store") or addresses.default_store(), port)
    page = server = f"http://127.0.0.1:{port}"
    if "run" in address:
        page = addresses.ui_page(server, address["experiment"], address["run"])
        summary = addresses.ui_summary(server, address["experiment"], address["run"])
        print(f"{summary}  the search in words, its picks and report", file=sys.stderr)
    print(f"{page}  all trials, the front first (Ctrl+C ends it)", file=sys.stderr, flush=True)
    os.execve(command[0], command, addresses.ui_environment())


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False)


def _values(dimension: Dimension) -> str:
    if isinstance(dimension, Entries):
        return ", ".join(catalogue.names(dimension.kind))
    grid = dimension.values()
    if isinstance(dimension, Interval) and (grid is None or len(grid) > 6):
        step = f" in steps of {dimension.step:g}" if grid else ""
        return f"{dimension.low:g} to {grid[-1] if grid else dimension.high:g}{step}"
    return ", ".join(str(v) for v in grid or ())
