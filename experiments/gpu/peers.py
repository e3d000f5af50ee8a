"""Our artifacts and what a user of PyTorch gets from a GPU without us, timed in turns.

    python experiments/gpu/peers.py resnet50 vit --batch 1 64 --out results/peers-CARD.json

Ours are the unchanged networks of this folder in each precision, exported and loaded as a search
does. Peers are eager PyTorch and torch.compile in the same precisions, with channels innermost or
not, torch.compile with max-autotune, and torchao's 8-bit layers. All run as CUDA graphs. First
everything is built in several processes, which fills the compilers' caches; then one process loads
all of them and times them in turns. The agreement is the share of samples to which a candidate
gives the class of the float32 network in eager PyTorch.

Last run: see experiments/LOG.md. CI runs `--device cpu`, without graphs and with few candidates.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import torch
from torch import Tensor, nn

from objectives import Export, Runtime, Target
from objectives.artifacts import described, load, versions, write
from objectives.exporting import Replayed
from objectives.tasks.python import Python
from search import catalogue
from spaces import Encoding, Infeasible, Task
from spaces.devices import device_of

Function = Callable[[Tensor], Tensor]
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
ENCODINGS = {
    **{name: Encoding(dtype=name) for name in PRECISIONS},
    "int8": Encoding(weight_bits=8, activation_bits=8, dtype="bfloat16"),
    "float8": Encoding(dtype="float8"),
}
ROUNDS, REPEATS, WORKERS = 41, 5, 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run a network; `ours` are exported, others stay in the process."""

    ours: bool
    how: str
    """The runtime, or the way of compiling."""
    precision: str
    channels_last: bool = False

    def __str__(self) -> str:
        """Return the candidate in words."""
        order = ", channels innermost" if self.channels_last else ""
        return f"{'ours' if self.ours else 'peer'}: {self.how} {self.precision}{order}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """A candidate that can run."""

    feed: Callable[[Tensor], Any]
    """Returns inputs in the form and place in which `run` takes them."""
    run: Callable[[Any], Tensor]
    """Returns the outputs of a batch."""


def main() -> None:
    """Build, time and tell what the command line asks for."""
    asked = _arguments()
    warnings.simplefilter("ignore")
    results = []
    for network in asked.networks:
        for batch in asked.batch:
            rows = _compare(network, batch, asked)
            results.append({"network": network, "batch": batch, "rows": rows})
            print(_table(network, batch, rows), flush=True)
    if asked.out:
        about = {"date": time.strftime("%Y-%m-%d"), "versions": versions()}
        about["device"] = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
        asked.out.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="+", help="resnet50, vit, decoder, or a task file")
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", default=[], help="parts of candidates' names")
    parser.add_argument("--out", type=Path, help="JSON file for the raw results")
    return parser.parse_args()


def _candidates(network: str, asked: argparse.Namespace) -> list[Candidate]:
    images = _inputs(network, 1, "cpu").dim() == 4
    orders = (False, True) if images else (False,)
    found = [
        Candidate(ours=True, how=runtime, precision=precision)
        for runtime in ("eager", "inductor")
        for precision in ENCODINGS
    ]
    found += [
        Candidate(ours=False, how=how, precision=precision, channels_last=order)
        for how in ("eager", "compile")
        for precision in PRECISIONS
        for order in orders
    ]
    found.append(
        Candidate(ours=False, how="max-autotune", precision="bfloat16", channels_last=images)
    )
    found += [
        Candidate(ours=False, how="torchao", precision=precision)
        for precision in ("int8", "float8")
    ]
    if asked.device == "cpu":
        found = [c for c in found if c.ours or c.precision not in ("tf32", "float8")]
    wanted = asked.only
    return [c for c in found if not wanted or any(part in str(c) for part in wanted)]


def _compare(network: str, batch: int, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each candidate: milliseconds, agreement, seconds to build, or a reason."""
    target = Target(device=asked.device, batch_size=batch)
    candidates = _candidates(network, asked)
    rows: dict[Candidate, dict[str, Any]] = {
        c: {"name": str(c), "ours": c.ours} for c in candidates
    }
    with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
        _task(network).model()  # its weights and labels are kept for the processes
        folders = {c: Path(scratch) / str(i) for i, c in enumerate(candidates)}
        for candidate, outcome in _built(network, target, folders):
            rows[candidate] |= outcome
        functions = {}
        for candidate in candidates:
            if "reason" not in rows[candidate]:
                try:
                    functions[candidate] = _loaded(candidate, network, target, folders[candidate])
                except (Infeasible, RuntimeError) as error:
                    rows[candidate]["reason"] = _line(error)
        for candidate, milliseconds in _timed(functions, network, target).items():
            rows[candidate]["ms"] = milliseconds
        for candidate, share in _agreements(functions, network, target).items():
            rows[candidate]["agreement"] = share
    return list(rows.values())


def _built(
    network: str, target: Target, folders: dict[Candidate, Path]
) -> Iterator[tuple[Candidate, dict[str, Any]]]:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        futures = {
            pool.submit(_build, candidate, network, target, folder): candidate
            for candidate, folder in folders.items()
        }
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()


def _build(candidate: Candidate, network: str, target: Target, folder: Path) -> dict[str, Any]:
    """Export, or compile once; return the seconds, or the reason why it cannot be built."""
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    try:
        if candidate.ours:
            _export(candidate, network, target, folder)
        else:
            inputs = _inputs(network, target.batch_size, target.device)
            _peer(candidate, network, target)(_fed(candidate, inputs))
            device_of(target.device).synchronize()
    except Exception as error:  # whatever a compiler raises is a row of the table
        return {"reason": _line(error)}
    return {"seconds": time.perf_counter() - start}


def _export(candidate: Candidate, network: str, target: Target, folder: Path) -> None:
    task, encoding = _task(network), ENCODINGS[candidate.precision]
    runtime = _runtime(candidate)
    model = task.model()
    example = _inputs(network, target.batch_size, "cpu")
    signature, operations = described(model, example, target)
    kinds = frozenset(type(layer).__name__ for layer in model.modules())
    if reason := runtime.lacks_kernels(encoding, target, kinds):
        raise Infeasible(reason)
    folder.mkdir()
    export = Export(
        model=model,
        reference=task.model(),
        example=example,
        signature=signature,
        encoding=encoding,
        calibration=[example] if encoding.activation_bits < 32 else [],
        target=target,
        folder=folder,
        operations=operations,
    )
    write(folder / "artifact", candidate.how, runtime, export, {})


def _loaded(candidate: Candidate, network: str, target: Target, folder: Path) -> Loaded:
    """Return a candidate that is ready to run; its graph is recorded."""
    images = _inputs(network, target.batch_size, target.device)
    if candidate.ours:
        program = load(folder / "artifact", _runtime(candidate), _task(network))
        loaded = Loaded(feed=lambda x: program.feed([x]), run=lambda fed: program.run(fed)[0])
    else:
        peer, device = _peer(candidate, network, target), torch.device(target.device)
        replayed = Replayed(lambda tensors: [peer(tensors[0])], device)
        replayed.record([_fed(candidate, images)])
        loaded = Loaded(
            feed=lambda x: [_fed(candidate, x.to(device))], run=lambda fed: replayed(fed)[0]
        )
    loaded.run(loaded.feed(images))
    return loaded


def _fed(candidate: Candidate, inputs: Tensor) -> Tensor:
    """Return inputs in the type and the order in memory that a peer takes."""
    order = torch.channels_last if candidate.channels_last else torch.contiguous_format
    return inputs.to(_dtype(candidate)).contiguous(memory_format=order)


def _dtype(candidate: Candidate) -> torch.dtype:
    named = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    rounded = {"int8": torch.bfloat16, "float8": torch.bfloat16}
    return (named | rounded).get(candidate.precision, torch.float32)


def _peer(candidate: Candidate, network: str, target: Target) -> Function:
    """Return a function of inputs as `_fed` gives them."""
    model = _task(network).model().requires_grad_(False).to(target.device, _dtype(candidate))
    if candidate.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    function = _prepared(model, candidate)

    def call(inputs: Tensor) -> Tensor:
        rounding = device_of(target.device).tf32() if candidate.precision == "tf32" else None
        with torch.inference_mode(), rounding or contextlib.nullcontext():
            return function(inputs)

    return call


def _prepared(model: nn.Module, candidate: Candidate) -> Function:
    if candidate.how == "eager":
        return model
    if candidate.how == "torchao":
        from torchao import quantization

        config = {
            "int8": quantization.Int8DynamicActivationInt8WeightConfig,
            "float8": quantization.Float8DynamicActivationFloat8WeightConfig,
        }[candidate.precision]
        quantization.quantize_(model, config())
    mode = "max-autotune-no-cudagraphs" if candidate.how == "max-autotune" else None
    return torch.compile(model, mode=mode)  # type: ignore[return-value]


def _timed(loaded: dict[Candidate, Loaded], network: str, target: Target) -> dict[Candidate, float]:
    """Return the median milliseconds of a batch, by the device's clock, every candidate in turns.

    A round times a few batches of each candidate, in a new order.
    """
    images = _inputs(network, target.batch_size, target.device)
    feeds = {candidate: program.feed(images) for candidate, program in loaded.items()}
    timer, order, draw = device_of(target.device).timer(), list(loaded), random.Random(0)
    seconds: dict[Candidate, list[float]] = {candidate: [] for candidate in loaded}
    for _ in range(ROUNDS):
        draw.shuffle(order)
        for candidate in order:
            run, feed = loaded[candidate].run, feeds[candidate]
            run(feed)
            batch = statistics.median(timer(functools.partial(run, feed)) for _ in range(REPEATS))
            seconds[candidate].append(batch)
    return {candidate: 1e3 * statistics.median(times) for candidate, times in seconds.items()}


def _agreements(
    loaded: dict[Candidate, Loaded], network: str, target: Target
) -> dict[Candidate, float]:
    """Return the share of validation samples that get the labels, which the network gave them."""
    size = target.batch_size
    batches = [b for b in _task(network).batches("validation", size) if len(b[1]) == size]
    shares = {}
    for candidate, program in loaded.items():
        hits = [
            program.run(program.feed(inputs)).argmax(-1).cpu() == labels
            for inputs, labels in batches
        ]
        shares[candidate] = float(torch.cat(hits).float().mean())
    return shares


def _table(network: str, batch: int, rows: list[dict[str, Any]]) -> str:
    """Return a table, fastest first, with the best peer of equal agreement as the unit."""
    timed = sorted((row for row in rows if "ms" in row), key=lambda row: row["ms"])
    best = min((row["ms"] for row in timed if not row["ours"]), default=None)
    lines = [f"\n{network}, batch {batch} ({len(timed)} of {len(rows)} candidates ran)"]
    for row in timed:
        ratio = f"{best / row['ms']:6.2f} x best peer" if best else ""
        lines.append(
            f"{row['ms']:9.4f} ms  agrees {row['agreement']:.3f}  built in {row['seconds']:4.0f} s"
            f"  {ratio}  {row['name']}"
        )
    lines += [f"not run: {row['name']}: {row['reason']}" for row in rows if "ms" not in row]
    return "\n".join(lines)


def _runtime(candidate: Candidate) -> Runtime:
    runtime: Runtime = catalogue.entry("runtime", candidate.how)()
    return runtime


def _task(network: str) -> Task:
    return Python(file=Path(network) if network.endswith(".py") else HERE / f"{network}.py")


def _inputs(network: str, batch: int, device: str) -> Tensor:
    inputs, _ = next(iter(_task(network).batches("validation", batch)))
    return torch.as_tensor(inputs).to(device)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['?'])[0][:160]}"


if __name__ == "__main__":
    main()
