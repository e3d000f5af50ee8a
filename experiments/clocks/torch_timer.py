"""Times a module or a package of PyTorch by torch.utils.benchmark's blocked_autorange."""

import json

import torch
from _loading import arguments, load
from torch.utils import benchmark


def main() -> None:
    """Print the median and the lowest milliseconds of a run, over blocks of runs, as JSON."""
    asked = arguments(__doc__ or "")
    with torch.inference_mode():
        run = load(asked.artifact, asked.inputs, "cpu")
        timer = benchmark.Timer("run()", globals={"run": run}, num_threads=asked.threads)
        found = timer.blocked_autorange(min_run_time=asked.seconds)
    print(json.dumps({"median": 1e3 * found.median, "lowest": 1e3 * min(found.times)}))


if __name__ == "__main__":
    main()
