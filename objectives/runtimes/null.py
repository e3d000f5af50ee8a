"""A device that does not exist: real artifacts and accuracy, but times that are computed."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from objectives.exporting import CODED, coded_weights, stored_modules, torch_modules
from objectives.runtime import Export, Program, Runtime, Signature
from objectives.target import Target
from spaces import Encoding, Task

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Null(Runtime):
    """A fake device for tests and dry runs: the same candidate always takes the same time.

    The seconds of a run are synthetic: `ns_per_weight` times the number of weights, times the
    batch size, times the bits of weights and activations together as a share of 64. They say
    nothing of any machine. Everything else is real: files, rounding, outputs.
    """

    reads = CODED | {"activation_bits", "calibration_samples", "coding", "dtype"}
    usual = False

    ns_per_weight: float = 1.0
    """Synthetic nanoseconds for each float32 weight value and sample."""

    def lacks_kernels(
        self, encoding: Encoding, target: Target, kinds: frozenset[str]
    ) -> str | None:
        """Return why an encoding cannot be pretended."""
        del target, kinds
        if encoding.dtype == "float8":
            return "The null runtime does not compute in float8."
        if encoding.activation_bits in (8, 32):
            return None
        return (
            "The null runtime knows 8-bit and 32-bit activations, not "
            f"{encoding.activation_bits}-bit ones."
        )

    def export(self, export: Export) -> dict[str, Any]:
        """Write weights and architecture, and note the seconds that a run is said to take."""
        encoding = export.encoding
        whole = coded_weights(export) if encoding.packed else None
        model = torch_modules.converted(whole.model if whole else export.model, encoding.dtype)
        layers = _layers(model) if encoding.weight_bits == 8 else []
        codes, coder = whole.codes if whole else None, encoding.coding
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
            for name in _layers(model):
                model.get_submodule(name).register_forward_pre_hook(_round_inputs)
        return _Null(signature, target, folder, model=model, dtype=dtype, taken=notes["seconds"])


class _Null(torch_modules.ModuleProgram):
    def __init__(self, *args: Any, taken: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._taken = taken

    def seconds(self, feed: Any) -> float:
        """Return the synthetic time."""
        del feed
        return self._taken


def _layers(model: nn.Module) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(layer, _LAYERS)]


def _share(encoding: Encoding) -> float:
    whole = 32 if encoding.dtype == "float32" else 16
    weights = min(encoding.weight_bits, encoding.mean_bits, encoding.cluster_bits, whole)
    return (weights + min(encoding.activation_bits, whole)) / 64


def _round_inputs(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Round a layer's input to 255 values around zero, as 8-bit activations would be."""
    del layer
    scale = inputs[0].abs().amax().clamp(min=torch.finfo(inputs[0].dtype).tiny) / 127
    return ((inputs[0] / scale).round() * scale, *inputs[1:])
