"""PyTorch itself, layer by layer: what the user's model runs on before anything is done."""

import copy
import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from objectives._target import Target
from objectives.runtimes import _cuda, _stored
from objectives.runtimes._codes import coded_weights, refuses_codes, spelled, unpacked
from objectives.runtimes._runtime import Export, Program, Runtime, Signature
from objectives.runtimes._semi_structured import with_semi_structured
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
from spaces._inputs import call, flatten, plain, transform, unflatten

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
        gpu = target.device == "cuda"
        if gpu and (reason := _cuda.lacks_cuda()):
            return reason
        lack = None if gpu else lacks(encoding.dtype)
        if not encoding.quantized:
            return lack
        if encoding.activation_bits == 32:
            return refuses_codes(kinds) or lack
        bits = (encoding.weight_bits, encoding.activation_bits)
        if encoding.packed or bits != (8, 8):
            return (
                f"Eager PyTorch has no kernel for {spelled(encoding)} "
                f"with {bits[1]}-bit activations."
            )
        if encoding.dtype != "float32" and not gpu:
            return f"Eager PyTorch's 8-bit layers return float32, not {encoding.dtype}."
        if any(kind.startswith("Conv") for kind in kinds) or "Linear" not in kinds:
            return "Eager PyTorch's 8-bit layers are linear ones, and this model has others."
        return _cuda.lacks_integers() if gpu else _lacks_integers()

    def export(self, export: Export) -> dict[str, Any]:
        """Write weights and architecture; choose the memory format by timing both."""
        encoding = export.encoding
        if encoding.quantized and encoding.activation_bits == 32:
            return _export_codes(export)
        model = converted(export.model, encoding.dtype)
        gpu = export.target.device == "cuda"
        layers = _linear_layers(model, gpu) if encoding.quantized else {}
        _stored.write(export.folder, export.reference, model, layers)
        if layers:
            weights = {name: _stored.rounded(layer.weight) for name, layer in layers.items()}
            model = _with_integers(model, weights, gpu)
        return {"dtype": encoding.dtype, "channels_last": _tried(export, model)}

    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Rebuild the model from the task's code, and let PyTorch use the target's threads."""
        torch.set_num_threads(target.threads)
        dtype = dtype_of(notes["dtype"])
        if target.device == "cuda":
            model = _module(folder, task, notes, gpu=True).cuda()
            with_semi_structured(model)
            function = _function(model, signature)
            return _cuda.CudaProgram(signature, target, folder, function=function, dtype=dtype)
        model = self.module(folder, task, notes)
        return ModuleProgram(signature, target, folder, model=model, dtype=dtype)

    def module(self, folder: Path, task: Task, notes: dict[str, Any]) -> nn.Module:
        """Rebuild the model from the task's code."""
        return _module(folder, task, notes, gpu=False)


def _module(folder: Path, task: Task, notes: dict[str, Any], *, gpu: bool) -> nn.Module:
    """Rebuild the model from the task's code, on the CPU, with the integer layers of a device."""
    model, layers = _stored.read(folder, task.model())
    model = model.eval().requires_grad_(False).to(dtype_of(notes["dtype"]))
    model = _with_integers(model, layers, gpu)
    return _channels_last(model) if notes["channels_last"] else model


def _function(model: nn.Module, signature: Signature) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Return the model as a function of its input tensors."""

    def function(tensors: Sequence[Tensor]) -> list[Tensor]:
        return flatten(call(model, plain(unflatten(list(tensors), signature.inputs))))[0]

    return function


def _tried(export: Export, model: nn.Module) -> bool:
    """Run the model once where it is to run; return whether it prefers its channels last."""
    inputs = inputs_as(export.example, export.encoding.dtype)
    if export.target.device == "cuda":
        model, inputs = copy.deepcopy(model).cuda(), transform(inputs, lambda t: t.cuda())
    with threads(export.target.threads):
        rehearse(model, inputs)
        return _prefers_channels_last(model, inputs)


def _export_codes(export: Export) -> dict[str, Any]:
    """Write a model whose weights are codes; it runs from the floats that they stand for."""
    name = export.encoding.dtype
    whole = coded_weights(export)
    model = converted(whole.model, name)
    _stored.write(
        export.folder,
        export.reference,
        model,
        codes=whole.codes,
        coder=export.encoding.coding,
    )
    count = len(whole.codes)
    last = _tried(export, model)
    notes = {"dtype": name, "channels_last": last, "quantized_layers": count}
    return notes | unpacked(count)


class _IntegerLinear(nn.Module):
    """A linear layer of 8-bit weights that rounds its input to integers at every call."""

    def __init__(self, weight: _stored.Integers, bias: Tensor | None, narrow: bool) -> None:
        super().__init__()
        self._packed = _packed(weight, bias)
        self._narrow = narrow

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.ops.quantized.linear_dynamic(inputs, self._packed, self._narrow)
        return outputs


def _linear_layers(model: nn.Module, gpu: bool) -> dict[str, nn.Linear]:
    """Return plain linear layers by name: what derives from them may be read by its owner."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and (not gpu or _cuda.fits(layer))
    }


def _with_integers(
    model: nn.Module, layers: Mapping[str, _stored.Integers], gpu: bool
) -> nn.Module:
    narrow = bool(layers) and not gpu and _saturates()
    for name, weight in layers.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        whole = (
            _cuda.IntegerLinear(weight, layer.bias)
            if gpu
            else _IntegerLinear(weight, layer.bias, narrow)
        )
        model.set_submodule(name, whole)
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
    gpu = next(model.parameters()).is_cuda
    contenders = (copy.deepcopy(model), _channels_last(model))
    taken: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for contender, times in zip(contenders, taken, strict=True):
                start = time.perf_counter()
                call(contender, inputs)
                if gpu:
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
    # the first rounds warm the caches up
    old, new = (statistics.median(times[2:]) for times in taken)
    return new < _GAIN * old
