"""The stages of one architecture of the zoo: prune, export, reload and compare, in this process."""

import dataclasses
import json
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from objectives import Export, Runtime, Target, artifacts, calibration
from objectives.artifacts import described
from search import catalogue
from spaces import FORGETFUL, Encoding, Infeasible, Left, Task, Technique
from spaces.modules import call, flatten, plain, surgery, unflatten

T = TypeVar("T")
RATIO = 0.3
CALIBRATED = 16
"""Training samples from which the ranges of 8-bit activations are estimated."""
TOLERANCE = 1e-3
"""Largest difference of a reloaded float32 artifact's outputs, relative to the largest output."""
HEAVY = 2.5e9
"""Operations of a sample above which the artifact in 8 bits is not built, to save minutes."""


@dataclasses.dataclass(kw_only=True)
class Outcome:
    """What came of one architecture; written to a file after each stage, so that a kill loses
    nothing."""

    name: str
    state: str = "timeout"
    """pruned, refused, failed or timeout."""
    stage: str = "build"
    """The stage in which it ended."""
    reason: str = ""
    left: list[str] = dataclasses.field(default_factory=list)
    """What the technique says that it left whole."""
    parameters: int = 0
    removed: float = 0.0
    """Share of the weights that pruning removed."""
    operations: int = 0
    """Operations of one sample of the whole model."""
    saved: float = 0.0
    """Share of the operations that pruning removed."""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    differences: dict[str, float] = dataclasses.field(default_factory=dict)
    """Largest difference of a reloaded artifact's outputs from the edited model's, relative to the
    largest output, by runtime; of 8 bits the mean one."""
    exports: dict[str, str] = dataclasses.field(default_factory=dict)
    """What came of each artifact: equal, close, or the reason why there is none."""


class Bench:
    """Runs the stages of one architecture and keeps the outcome on disk."""

    def __init__(self, task: Task, name: str, file: Path) -> None:
        self._task, self._file = task, file
        self.outcome = Outcome(name=name)

    def run(self, quantized: str) -> None:
        """Run all stages; `quantized` is the runtime of the artifact in 8 bits, "" for none."""
        try:
            whole = self._timed("build", self._task.model)
            pruned = self._timed("prune", lambda: self._pruned(whole))
            self.outcome.state = "pruned"
            with tempfile.TemporaryDirectory() as folder:
                self._exports(whole, pruned, Path(folder), quantized)
        except Infeasible as error:
            self.outcome.state, self.outcome.reason = "refused", str(error)
        except Exception as error:  # whatever another project's model raises is a row of the table
            traceback.print_exc()
            self.outcome.state, self.outcome.reason = "failed", _said(error)
        self._write()

    def _pruned(self, whole: nn.Module) -> nn.Module:
        """Return a pruned copy of the model, checked to be finite and of the old shapes."""
        self.outcome.parameters = sum(p.numel() for p in whole.parameters())
        channels = catalogue.find("technique", "prune.channels", Technique)(ratio=RATIO)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", Left)
            pruned = channels.edit(self._task.model(), self._task, FORGETFUL)
        self.outcome.left = [str(w.message) for w in caught if issubclass(w.category, Left)]
        self.outcome.removed = surgery.achieved(whole, pruned)
        before, after = (self._outputs(model) for model in (whole, pruned))
        if [t.shape for t in before] != [t.shape for t in after]:
            raise ValueError("the pruned model's outputs have other shapes")
        if not all(bool(t.isfinite().all()) for t in after if t.is_floating_point()):
            raise ValueError("the pruned model's outputs are not finite")
        return pruned

    def _exports(self, whole: nn.Module, pruned: nn.Module, folder: Path, quantized: str) -> None:
        """Export the pruned model as it is, and in 8 bits; reload both and compare."""
        example = self._example(1)
        _, before = described(whole, example, Target())
        signature, after = described(pruned, example, Target())
        self.outcome.operations = before.count
        self.outcome.saved = 1 - after.count / max(before.count, 1)
        asked = {"eager": Encoding()}
        if quantized and before.count <= HEAVY:
            bits = {"weight_bits": 8, "activation_bits": 8, "calibration_samples": CALIBRATED}
            asked[quantized] = Encoding(**bits)
        for runtime, encoding in asked.items():
            ranges = ()
            if encoding.quantized:
                ranges = calibration(self._task, 1, CALIBRATED, 0, folder / "data")
            export = Export(
                model=pruned,
                reference=whole,
                example=example,
                signature=signature,
                encoding=encoding,
                calibration=ranges,
                target=Target(),
                folder=folder,
                operations=after,
            )
            self._artifact(export, runtime, folder / runtime)

    def _artifact(self, export: Export, name: str, folder: Path) -> None:
        """Write, reload and compare one artifact; a refusal is a result, as is an error."""
        key = f"{name} 8/8" if export.encoding.quantized else name
        runtime = catalogue.find("runtime", name, Runtime)()
        try:
            self._timed(f"export {key}", lambda: artifacts.write(folder, name, runtime, export, {}))
            program = self._timed(
                f"reload {key}", lambda: artifacts.load(folder, runtime, self._task)
            )
            with program:
                actual = flatten(program(self._example(4)))[0]
        except Infeasible as error:
            self.outcome.exports[key] = f"refused: {error}"
            return
        except Exception as error:  # an export that crashes is told beside the pruning
            traceback.print_exc()
            self.outcome.exports[key] = f"failed: {_said(error)}"
            return
        expected = flatten([self._outputs(export.model, sample) for sample in range(4)])[0]
        difference = _difference(actual, expected, mean=export.encoding.quantized)
        self.outcome.differences[key] = difference
        equal = "close" if export.encoding.quantized else "equal"
        self.outcome.exports[key] = (
            equal if difference <= (0.5 if equal == "close" else TOLERANCE) else "differs"
        )

    def _example(self, samples: int) -> Any:
        inputs, _ = next(iter(self._task.batches("validation", samples)))
        return inputs

    def _outputs(self, model: nn.Module, sample: int | None = None) -> list[Tensor]:
        """Return the outputs for two samples, or for one of the first four."""
        inputs = self._example(2)
        if sample is not None:
            tensors, spec = flatten(self._example(4))
            inputs = plain(unflatten([t[sample : sample + 1] for t in tensors], spec))
        with torch.inference_mode():
            return flatten(call(model, inputs))[0]

    def _timed(self, stage: str, step: Callable[[], T]) -> T:
        """Return the step's result; its seconds are kept, also if it fails."""
        self.outcome.stage = stage
        self._write()
        start = time.perf_counter()
        try:
            return step()
        finally:
            self.outcome.seconds[stage] = round(time.perf_counter() - start, 2)

    def _write(self) -> None:
        draft = self._file.with_suffix(".part")
        draft.write_text(json.dumps(dataclasses.asdict(self.outcome)))
        draft.replace(self._file)


def _said(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first[:200]}"


def _difference(actual: list[Tensor], expected: list[Tensor], *, mean: bool) -> float:
    """Return the largest, or mean, difference relative to the largest output of each tensor.

    `expected` lists the tensors sample by sample.
    """
    worst = 0.0
    for place, tensor in enumerate(actual):
        wanted = torch.cat(expected[place :: len(actual)]).double()
        gap = (tensor.double() - wanted).abs()
        value = float(gap.mean() if mean else gap.max())
        scale = float(wanted.std() if mean else wanted.abs().max())
        worst = max(worst, value / max(scale, 1e-12))
    return worst
