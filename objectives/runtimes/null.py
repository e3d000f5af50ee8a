"""Null runtime: real artifacts and outputs, synthetic times."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from objectives.execution import Kind, Operation
from objectives.exporting import CODED, coded_weights, stored_modules, torch_modules
from objectives.runtime import Export, Program, Runtime, Signature
from objectives.target import Target
from spaces import Encoding, Task

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Null(Runtime):
    """A fake device for tests and dry runs: the same candidate always takes the same time.

    The time of a run is synthetic: `ns_per_weight` x number of weights x batch size x (bits of a
    weight + bits of an activation) / 64. It predicts no machine's time. Files, rounding and outputs
    are real.
    """

    reads = CODED | {"activation_bits", "calibration_samples", "coding", "dtype"}
    usual = False

    ns_per_weight: float = 1.0
    """Synthetic nanoseconds per float32 weight and sample."""

    def lacks_kernels(
        self, encoding: Encoding, target: Target, kinds: frozenset[str]
    ) -> str | None:
        """Reason why an encoding cannot be simulated; None if it can."""
        del target, kinds
        if encoding.dtype in ("tf32", "float8"):
            return f"The null runtime does not compute in {encoding.dtype}."
        if encoding.activation_bits in (8, 32):
            return None
        return (
            "The null runtime knows 8-bit and 32-bit activations, not "
            f"{encoding.activation_bits}-bit ones."
        )

    def export(self, export: Export) -> dict[str, Any]:
        """Write weights and architecture; the notes hold the synthetic seconds of a run."""
        encoding = export.encoding
        encoded = coded_weights(export) if encoding.packed else None
        model = torch_modules.converted(encoded.model if encoded else export.model, encoding.dtype)
        layers = _layer_names(model) if encoding.weight_bits == 8 else []
        codes, coder = encoded.codes if encoded else None, encoding.coding
        stored_modules.write(
            export.folder, export.reference, model, layers, codes=codes, coder=coder
        )
        torch_modules.rehearse(model, torch_modules.inputs_as(export.example, encoding.dtype))
        weights = sum(p.numel() for p in model.parameters())
        seconds = self.ns_per_weight * 1e-9 * weights * export.target.batch_size * _share(encoding)
        return {
            "seconds": seconds,
            "dtype": encoding.dtype,
            "rounds": encoding.activation_bits == 8,
        }

    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Rebuild the model from the task's code."""
        torch.set_num_threads(target.threads)
        dtype = torch_modules.dtype_of(notes["dtype"])
        model = stored_modules.read(folder, task.model()).model
        model = model.eval().requires_grad_(False).to(dtype)
        if notes["rounds"]:
            for name in _layer_names(model):
                model.get_submodule(name).register_forward_pre_hook(_round_inputs)
        return _NullProgram(
            signature,
            target,
            folder,
            model=model,
            dtype=dtype,
            run_seconds=notes["seconds"],
            rounds=notes["rounds"],
        )


class _NullProgram(torch_modules.ModuleProgram):
    def __init__(
        self,
        *args: Any,
        model: nn.Module,
        dtype: torch.dtype,
        run_seconds: float,
        rounds: bool,
    ) -> None:
        super().__init__(*args, model=model, dtype=dtype)
        self._run_seconds = run_seconds
        self._layers = {name: model.get_submodule(name) for name in _layer_names(model)}
        self._precision = "int8" if rounds else str(dtype).removeprefix("torch.")

    def seconds(self, feed: Any) -> float:
        """Return the synthetic seconds of a run."""
        del feed
        return self._run_seconds

    def operations(self, feed: Any) -> tuple[Operation, ...]:
        """Return one operation a layer, with shares of the synthetic time by their weights."""
        del feed
        weights = {name: cast(Tensor, layer.weight).numel() for name, layer in self._layers.items()}
        return tuple(
            Operation(
                name=name,
                kind=Kind.LINEAR if isinstance(self._layers[name], nn.Linear) else Kind.CONVOLUTION,
                precision=self._precision,
                seconds=self._run_seconds * count / sum(weights.values()),
            )
            for name, count in weights.items()
        )


def _layer_names(model: nn.Module) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(layer, _LAYERS)]


def _share(encoding: Encoding) -> float:
    """Return the bits of a weight and an activation as a share of those in float32."""
    floating = 32 if encoding.dtype in ("float32", "tf32") else 16
    weights = min(encoding.weight_bits, encoding.mean_bits, encoding.cluster_bits, floating)
    return (weights + min(encoding.activation_bits, floating)) / 64


def _round_inputs(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Round a layer's input to 255 values around zero, like 8-bit activations."""
    del layer
    scale = inputs[0].abs().amax().clamp(min=torch.finfo(inputs[0].dtype).tiny) / 127
    return ((inputs[0] / scale).round() * scale, *inputs[1:])
