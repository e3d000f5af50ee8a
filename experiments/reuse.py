"""What the first and the next ratio of pruning cost, in turns, and if the next one is the same.

    python experiments/reuse.py WORKLOAD --ratios 0.2 0.4 --rounds 3 --out results.jsonl

WORKLOAD is a folder with experiment.toml. Each measurement is a process of its own with one thread,
as a trial is, from a model and a task as they are given to the stage SHAPE to the edited model. A
round starts with an empty cache: the first ratio fills it, the next ones use it, and each is edited
once more without a cache. The ratio that goes first changes from round to round. Seconds are of the
clock and, beside them, of the processor, which other processes disturb less. `equal` says that the
weights are those without a cache, bit for bit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from objectives import cached
from search.evaluation import Cache, CachedMemory
from search.experiment import Experiment
from spaces import FORGETFUL
from spaces.modules import identity
from spaces.techniques.prune.channels import Channels


def edit(workload: Path, ratio: float, folder: Path, keep: bool) -> None:
    """Prune the workload's model once, and print the seconds and the digest of the result."""
    torch.set_num_threads(1)
    experiment = Experiment.load(workload / "experiment.toml")
    task = experiment.task
    model = task.model().eval()
    validation = cached(task, "validation", folder / "data")
    cache = Cache.of(folder, experiment, model, validation)
    memory = CachedMemory(cache=cache, device=torch.device("cpu")) if keep else FORGETFUL
    start, processor = time.perf_counter(), time.process_time()
    pruned = Channels(ratio=ratio).edit(model, task, memory)
    seconds = {"clock": time.perf_counter() - start, "processor": time.process_time() - processor}
    print(json.dumps(seconds | {"model": identity(pruned), "saved": cache.saved}))


def measured(workload: Path, ratio: float, folder: Path, keep: bool) -> dict[str, object]:
    """Return what `edit` prints in a fresh process."""
    command = [sys.executable, __file__, str(workload), "--one", str(ratio), str(folder)]
    result = subprocess.run([*command, str(int(keep))], check=True, capture_output=True, text=True)
    row: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return row


def turns(asked: argparse.Namespace) -> None:
    """Print, and append to a file, one row for each ratio of each round."""
    for number in range(asked.rounds):
        shift = number % len(asked.ratios)
        order = asked.ratios[shift:] + asked.ratios[:shift]
        with tempfile.TemporaryDirectory() as name:
            measured(asked.workload, 0.0, Path(name), keep=False)  # the split is cached from now on
            for place, ratio in enumerate(order):
                kept = measured(asked.workload, ratio, Path(name), keep=True)
                alone = measured(asked.workload, ratio, Path(name), keep=False)
                row = {
                    "round": number,
                    "ratio": ratio,
                    "first": place == 0,
                    "kept": {k: kept[k] for k in ("clock", "processor", "saved")},
                    "afresh": {k: alone[k] for k in ("clock", "processor")},
                    "equal": kept["model"] == alone["model"],
                }
                print(json.dumps(row), flush=True)
                if asked.out:
                    with asked.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")


def main() -> None:
    """Measure one edit, or all in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.4])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        ratio, folder, keep = asked.one
        edit(asked.workload, float(ratio), Path(folder), bool(int(keep)))
    else:
        turns(asked)


if __name__ == "__main__":
    main()
