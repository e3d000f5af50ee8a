"""Times a module or a package of PyTorch on a GPU: a CUDA graph between two events.

A model that cannot be recorded as a graph is called between the events.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from _loading import Call, arguments, load

WARM = 10


def main() -> None:
    """Print the median and the lowest milliseconds of a run as JSON."""
    asked = arguments((__doc__ or "").partition("\n")[0])
    with torch.inference_mode():
        run = _recorded(load(asked.artifact, asked.inputs, "cuda"))
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(WARM):
            run()
        torch.cuda.synchronize()
        times: list[float] = []
        end = time.perf_counter() + asked.seconds
        while time.perf_counter() < end or len(times) < WARM:
            start.record()
            run()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop))
    print(json.dumps({"median": statistics.median(times), "lowest": min(times)}))


def _recorded(call: Call) -> Callable[[], object]:
    """Return the replay of a CUDA graph of the call, or the call if it cannot be recorded."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        print(f"no CUDA graph: {error}", file=sys.stderr)
        return call
    return graph.replay


if __name__ == "__main__":
    main()
