"""Times linear layers whose weights stay in few bits against dense ones, size by size.

    python experiments/kernels.py [--device cuda] [--sizes 4096x4096] [--rows 1 32] [--gemlite]
        [--rounds 30] [--out FILE]

A size is outputs x inputs; rows are those of the input. Layers are those that the eager runtime
loads: `objectives.runtimes._low_bits` and `_tensor_cores`, in bfloat16 between them. All take
turns; on a GPU each turn replays a CUDA graph of ten calls. `--gemlite` adds that library's
kernels, where it is installed, with the seconds until its first result: it tries out kernels for
every size.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from objectives.exporting import Replayed, stored_modules
from objectives.kernels import EightBitLinear, Float8Linear, FourBitLinear
from spaces import Encoding
from spaces.quantization import encoded

CALLS = 10
GROUP = 64


def main() -> None:
    """Print a row for each size and number of rows, and write all as JSON if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", nargs="+", default=["1024x1024", "4096x4096", "11008x4096"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--gemlite", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    device, rows = torch.device(asked.device), []
    torch.set_num_threads(1)
    for size in asked.sizes:
        outputs, inputs = (int(part) for part in size.split("x"))
        layers = dict(_layers(outputs, inputs, device))
        for count in asked.rows:
            x = torch.randn(count, inputs, device=device, dtype=torch.bfloat16)
            more = dict(_gemlite(layers, x)) if asked.gemlite else {}
            found = _timed(layers | more, x, asked.rounds)
            told = "  ".join(f"{name} {1e6 * seconds:.1f}" for name, seconds in found.items())
            print(f"{size} rows {count}, us: {told}", flush=True)
            rows.append({"size": size, "rows": count, "seconds": found})
    if asked.out:
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        content = {"device": name, "torch": torch.__version__, "rows": rows}
        asked.out.write_text(json.dumps(content, indent=1) + "\n")


def _layers(outputs: int, inputs: int, device: torch.device) -> Iterator[tuple[str, nn.Module]]:
    """Yield a layer in bfloat16, and the same with its weight in fewer bits."""
    torch.manual_seed(0)
    with torch.device(device):
        layer = nn.Linear(inputs, outputs, bias=False).requires_grad_(False)
    dense = nn.Linear(inputs, outputs, bias=False, device="meta")
    dense.weight = nn.Parameter(layer.weight.bfloat16(), requires_grad=False)
    yield "bfloat16", dense
    # the first and the last layer of a model keep 8 bits
    between = nn.Sequential(nn.Linear(16, inputs), layer.cpu(), nn.Linear(outputs, 16))
    for bits, kind in ((8, EightBitLinear), (4, FourBitLinear)):
        whole = encoded(between, None, Encoding(weight_bits=bits))
        yield f"{bits} bits", kind(whole.codes["1.weight"], None, dense.weight)
    weight = stored_modules.rounded(layer.weight, torch.float8_e4m3fn)
    yield "float8", Float8Linear(weight, layer.bias).to(device)


def _gemlite(layers: dict[str, nn.Module], x: Tensor) -> Iterator[tuple[str, nn.Module]]:
    """Yield gemlite's layers of 8, 4, 2 and 1 bits, random weights; the seconds are in the name."""
    from gemlite.helper import A16Wn

    outputs, inputs = next(iter(layers.values())).weight.shape
    for bits in (8, 4, 2, 1):
        codes = torch.randint(0, 2**bits, (outputs, inputs), device=x.device, dtype=torch.uint8)
        scale = torch.full((codes.numel() // GROUP, 1), 0.01, device=x.device, dtype=x.dtype)
        start = time.perf_counter()
        made = A16Wn(device=x.device, dtype=x.dtype)
        layer = made.from_weights(codes, scale, torch.zeros_like(scale), bits, GROUP)
        layer(x).sum().item()
        yield f"gemlite {bits} bits ({time.perf_counter() - start:.0f} s)", layer


def _timed(layers: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, float]:
    """Return the median seconds of a call of each layer, in turns."""
    runs = {name: _run(layer, x) for name, layer in layers.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append((time.perf_counter() - start) / CALLS)
    return {name: statistics.median(times) for name, times in taken.items()}


def _run(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return what calls a layer CALLS times and waits until that is done."""

    def calls(tensors: object) -> list[Tensor]:
        for _ in range(CALLS - 1):
            layer(x)
        return [layer(x)]

    replayed = Replayed(calls, x.device)
    replayed.record([x])

    def run() -> None:
        replayed([x])
        if x.is_cuda:
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    main()
