"""What runtimes really execute of an unchanged model in float32, in half precision and in integers.

    python experiments/executed.py EXPERIMENT [--runtimes onnxruntime openvino] [--out FILE]

EXPERIMENT searches `deploy.runtime`, and `quantize.integer` or `precision.compute`. For each
runtime the unchanged model is exported in each precision, and the runtime is asked what it
executes: the share of the multiply-adds in the asked precision, and what the time is spent on.
Each precision is timed in turns with float32.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from objectives.host import cores, processor
from search import Experiment
from search.evaluation import Trial, TrialContext
from search.experiment import timed
from search.measuring import MeasurementServer
from spaces import Infeasible, Point

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision.compute.dtype": "bfloat16"},
    "int8": {"quantize.integer.weight_bits": 8, "quantize.integer.activation_bits": 8},
    "8-bit weights": {"quantize.integer.weight_bits": 8},
}


def main() -> None:
    """Ask each runtime about each precision and print one paragraph for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--runtimes", nargs="+", help="all that the experiment names by default")
    parser.add_argument("--out", type=Path, help="keep all rows as JSON")
    options = parser.parse_args()
    experiment = Experiment.load(options.experiment)
    server = MeasurementServer()
    with tempfile.TemporaryDirectory() as folder:
        context = TrialContext(
            experiment=experiment,
            folder=Path(folder),
            trial=-1,
            server=server,
            progress=lambda *_: None,
        )
        names = options.runtimes or list(experiment.runtime_names())
        rows = [row for runtime in names for row in _rows(context, runtime)]
    server.close()
    print(f"{processor()}, {cores()} cores")
    for row in rows:
        print("\n".join(_lines(row)))
    if options.out:
        options.out.write_text(json.dumps({"processor": processor(), "rows": rows}, indent=1))


def _rows(context: TrialContext, runtime: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each precision that the experiment's space holds."""
    space = context.experiment.space
    dimensions = space.dimensions()
    folders: dict[str, Path] = {}
    for precision, values in PRECISIONS.items():
        if not values.keys() <= dimensions.keys():
            continue
        point = space.neutral() | {str(space.named("runtime")): runtime} | values
        folder = context.folder / runtime / precision
        yield {"runtime": runtime, "precision": precision} | _row(context, point, folder, folders)


def _row(
    context: TrialContext, point: Point, folder: Path, folders: dict[str, Path]
) -> dict[str, Any]:
    """Export and ask about one point; `folders` are those of earlier precisions."""
    try:
        Trial(context, point).export_untrained(folder)
    except Infeasible as error:
        return {"reason": str(error)}
    data = context.cache / "data"
    start = time.perf_counter()
    execution = context.server.execution(context.experiment, folder, data=data)
    row: dict[str, Any] = {"ask_seconds": round(time.perf_counter() - start, 2)}
    if execution:
        row |= {"execution": execution.to_json(), "why": execution.why()}
        row["shortfall"] = execution.shortfall() or execution.unpacked()
    if folders:
        first = next(iter(folders.values()))
        name = next(iter(timed(context.experiment.objectives)))
        (ratios,) = context.server.chain(context.experiment, [first, folder], data=data)
        row["ratio"] = dataclasses.asdict(ratios[name])
    folders[folder.name] = folder
    return row


def _lines(row: dict[str, Any]) -> Iterator[str]:
    head = f"{row['runtime']}, {row['precision']}"
    if reason := row.get("reason"):
        yield f"{head}: {reason}"
        return
    if ratio := row.get("ratio"):
        low, high = (1 / ratio[key] for key in ("high", "low"))
        head += f", {1 / ratio['value']:.2f} times float32 ({low:.2f} to {high:.2f})"
    execution = row.get("execution")
    share = "unknown" if not execution or execution["share"] is None else execution["share"]
    yield f"{head}: share {share}, asked in {row['ask_seconds']} s"
    yield from (f"    {row[key]}" for key in ("shortfall", "why") if row.get(key))


if __name__ == "__main__":
    main()
