"""PyTorch itself, layer by layer: what the user's model runs on before anything is done."""

import copy
import dataclasses
import statistics
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from objectives._target import Target
from objectives.runtimes import _stored
from objectives.runtimes._codes import UNPACKED, coded_weights, refuses_codes, spelled
from objectives.runtimes._runtime import Export, Program, Runtime, Signature
from objectives.runtimes._torch import (
    ModuleProgram,
    converted,
    dtype_of,
    first_line,
    inputs_as,
    lacks,
    rehearse,
    threads,
)
from spaces import Encoding, Task
from spaces._inputs import call

_ROUNDS = 9
_GAIN = 0.97
"""A memory format must save 3 % of the time to be chosen: less is within the noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eager(Runtime):
    """PyTorch's eager mode; the artifact is `weights.safetensors` and `architecture.json`.

    8-bit weights with 8-bit activations are FBGEMM's dynamic linear layers: the range of the
    activations is found at every call, so nothing is calibrated. Weights of few bits without
    quantized activations are stored packed and unpacked when the artifact is loaded.
    """

    splits = True

    def refuses(self, encoding: Encoding, target: Target, kinds: frozenset[str]) -> str | None:
        """Return why an encoding has no real kernels here."""
        if target.device != "cpu":
            return f"The eager runtime runs on cpu, the target asks for {target.device}."
        if not encoding.quantized:
            return lacks(encoding.dtype)
        if encoding.activation_bits == 32:
            return refuses_codes(kinds) or lacks(encoding.dtype)
        bits = (encoding.weight_bits, encoding.activation_bits)
        if encoding.packed or bits != (8, 8):
            return (
                f"Eager PyTorch has no kernel for {spelled(encoding)} "
                f"with {bits[1]}-bit activations."
            )
        if encoding.dtype != "float32":
            return f"Eager PyTorch's 8-bit layers return float32, not {encoding.dtype}."
        if any(kind.startswith("Conv") for kind in kinds) or "Linear" not in kinds:
            return "Eager PyTorch's 8-bit layers are linear ones, and this model has others."
        return _lacks_integers()

    def export(self, export: Export) -> dict[str, Any]:
        """Write weights and architecture; choose the memory format by timing both."""
        encoding = export.encoding
        if encoding.quantized and encoding.activation_bits == 32:
            return _export_codes(export)
        model = converted(export.model, encoding.dtype)
        inputs = inputs_as(export.example, encoding.dtype)
        layers = _linear_layers(model) if encoding.quantized else {}
        _stored.write(export.folder, export.reference, model, layers)
        with threads(export.target.threads):
            if layers:
                weights = {name: _stored.rounded(layer.weight) for name, layer in layers.items()}
                model = _with_integers(model, weights)
            rehearse(model, inputs)
            last = _prefers_channels_last(model, inputs)
        return {"dtype": encoding.dtype, "channels_last": last}

    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Rebuild the model from the task's code, and let PyTorch use the target's threads."""
        torch.set_num_threads(target.threads)
        model = self.module(folder, task, notes)
        dtype = dtype_of(notes["dtype"])
        return ModuleProgram(signature, target, folder, model=model, dtype=dtype)

    def module(self, folder: Path, task: Task, notes: dict[str, Any]) -> nn.Module:
        """Rebuild the model from the task's code."""
        model, layers = _stored.read(folder, task.model())
        model = model.eval().requires_grad_(False).to(dtype_of(notes["dtype"]))
        model = _with_integers(model, layers)
        return _channels_last(model) if notes["channels_last"] else model


def _export_codes(export: Export) -> dict[str, Any]:
    """Write a model whose weights are codes; it runs from the floats that they stand for."""
    name, inputs = export.encoding.dtype, inputs_as(export.example, export.encoding.dtype)
    whole = coded_weights(export)
    model = converted(whole.model, name)
    _stored.write(
        export.folder,
        export.reference,
        model,
        codes=whole.codes,
        coder=export.encoding.coding,
    )
    with threads(export.target.threads):
        rehearse(model, inputs)
        last = _prefers_channels_last(model, inputs)
    count = len(whole.codes)
    notes = {"dtype": name, "channels_last": last, "quantized_layers": count}
    return notes | {"remark": UNPACKED.format(count=count)}


class _IntegerLinear(nn.Module):
    """A linear layer of 8-bit weights that rounds its input to integers at every call."""

    def __init__(self, weight: _stored.Integers, bias: Tensor | None, narrow: bool) -> None:
        super().__init__()
        self._packed = _packed(weight, bias)
        self._narrow = narrow

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.ops.quantized.linear_dynamic(inputs, self._packed, self._narrow)
        return outputs


def _linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return plain linear layers by name: what derives from them may be read by its owner."""
    return {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear}


def _with_integers(model: nn.Module, layers: Mapping[str, _stored.Integers]) -> nn.Module:
    narrow = bool(layers) and _saturates()
    for name, weight in layers.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        model.set_submodule(name, _IntegerLinear(weight, layer.bias, narrow))
    return model


def _packed(weight: _stored.Integers, bias: Tensor | None) -> Any:
    """Return FBGEMM's form of an integer weight."""
    zeros = torch.zeros(weight.values.shape[0], dtype=torch.long)
    with warnings.catch_warnings():
        # the only way to these kernels; without it `refuses` answers
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        whole = torch._make_per_channel_quantized_tensor(
            weight.values, weight.scale.double(), zeros, 0
        )
    return torch.ops.quantized.linear_prepack(whole, bias)


def _sum_of_ones(*, narrow: bool) -> float:
    """Return 64 ones added up by the 8-bit kernel with its largest integers.

    `narrow` keeps the inputs to 7 bits.
    """
    packed = _packed(_stored.rounded(torch.ones(8, 64)), None)
    return float(torch.ops.quantized.linear_dynamic(torch.ones(1, 64), packed, narrow)[0, 0])


def _saturates() -> bool:
    """Whether full 8-bit inputs overflow: AVX2 adds pairs of products in 16 bits, VNNI in 32."""
    return abs(_sum_of_ones(narrow=False) - 64) > 1


def _lacks_integers() -> str | None:
    try:
        total = _sum_of_ones(narrow=True)
    except (RuntimeError, AttributeError) as error:
        return f"This PyTorch has no 8-bit linear layer for this CPU ({first_line(error)})."
    return None if abs(total - 64) < 1 else "This PyTorch's 8-bit linear layer computes wrongly."


def _channels_last(model: nn.Module) -> nn.Module:
    # convolutions hand the format of their weights on, so the inputs may stay as they are
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _prefers_channels_last(model: nn.Module, inputs: Any) -> bool:
    """Whether convolutions run faster with the channels innermost; changes `model`."""
    if not any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        return False
    contenders = (copy.deepcopy(model), _channels_last(model))
    taken: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for contender, times in zip(contenders, taken, strict=True):
                start = time.perf_counter()
                call(contender, inputs)
                times.append(time.perf_counter() - start)
    # the first rounds warm the caches up
    old, new = (statistics.median(times[2:]) for times in taken)
    return new < _GAIN * old
