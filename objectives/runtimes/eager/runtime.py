"""Eager runtime: store modules as safetensors and JSON, and run them layer by layer."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from objectives.exporting import (
    CODED,
    AcceleratorProgram,
    coded_weights,
    describe_weights,
    in_turns,
    refuses_calibration,
    refuses_codes,
    remarks,
    stored_modules,
    torch_modules,
)
from objectives.kernels import (
    eight_bits,
    kernels_of,
    linears,
    multiplies_in_8_bits,
    with_codes,
    with_eight_bits,
    with_semi_structured,
)
from objectives.runtime import Export, Program, Runtime, Signature
from objectives.target import Target
from spaces import Encoding, Infeasible, Task
from spaces.devices import device_of, on_host
from spaces.modules import Codes, transform


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eager(Runtime):
    """PyTorch's eager mode; the artifact is `weights.safetensors` and `architecture.json`.

    8-bit weights with 8-bit activations become dynamically quantized linear layers, by FBGEMM on
    CPUs: the range of the activations is computed at every call, so nothing is calibrated. Weights
    of few bits without quantized activations are stored packed. Linear layers multiply by the
    packed codes if PyTorch's weight-only kernels were faster than unpacked weights at export; all
    other weights are unpacked at load.
    """

    reads = CODED | {"activation_bits", "calibration", "calibration_samples", "coding", "dtype"}
    packages = ("torchao",)
    splits = True

    def lacks_kernels(
        self, encoding: Encoding, target: Target, kinds: frozenset[str]
    ) -> str | None:
        """Reason why PyTorch has no real kernels for an encoding; None if it has."""
        kernels = kernels_of(target.device)
        lack = kernels.lacks(encoding.dtype)
        if encoding.dtype == "float8":
            return lack or _refuses_float8(encoding, kinds)
        if not encoding.quantized:
            return lack
        if encoding.activation_bits == 32:
            return refuses_codes(kinds) or lack
        bits = (encoding.weight_bits, encoding.activation_bits)
        if encoding.packed or bits != (8, 8):
            return (
                f"Eager PyTorch has no kernel for {describe_weights(encoding)} "
                f"with {bits[1]}-bit activations."
            )
        if reason := refuses_calibration(encoding, "Eager PyTorch finds"):
            return reason
        if not _all_linear(kinds):
            return "Eager PyTorch's 8-bit layers are linear ones, and this model has others."
        return kernels.lacks_integers(encoding.dtype)

    def export(self, export: Export) -> dict[str, Any]:
        """Write weights and architecture; choose memory format and kernels by timing them."""
        encoding = export.encoding
        if encoding.quantized and encoding.activation_bits == 32:
            return _export_codes(export)
        model = torch_modules.converted(export.model, encoding.dtype)
        kind = torch.float8_e4m3fn if encoding.dtype == "float8" else torch.int8
        layers: dict[str, stored_modules.Rounded] = {}
        notes: dict[str, Any] = {}
        if multiplies_in_8_bits(encoding):
            layers, notes = eight_bits(*_on_target(export, model), encoding, export.target)
        stored_modules.write(export.folder, export.reference, model, layers, kind=kind)
        model = with_eight_bits(model, layers, export.target)
        return {
            "dtype": encoding.dtype,
            "channels_last": _prefers_channels_last(export, model),
            **notes,
        }

    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Rebuild the model from the task's code; PyTorch then uses the target's threads."""
        torch.set_num_threads(target.threads)
        dtype = torch_modules.dtype_of(notes["dtype"])
        stored, model = _loaded(folder, task, notes, target)
        model = model.to(target.device)
        with_semi_structured(model)
        if notes.get("kernels"):
            with_codes(model, stored.codes, notes.get("read_layers", ()))
        if device_of(target.device).accelerator:
            function = torch_modules.as_function(model, signature.inputs)
            return AcceleratorProgram(
                signature,
                target,
                folder,
                function=function,
                precision=notes["dtype"],
                model=model,
            )
        return torch_modules.ModuleProgram(signature, target, folder, model=model, dtype=dtype)

    def module(self, folder: Path, task: Task, notes: dict[str, Any]) -> nn.Module:
        """Rebuild the model from the task's code, on the CPU."""
        return _loaded(folder, task, notes, Target())[1]


def _loaded(
    folder: Path, task: Task, notes: dict[str, Any], target: Target
) -> tuple[stored_modules.Stored, nn.Module]:
    """Rebuild the model on the CPU from the task's code, with the target's 8-bit layers."""
    stored = stored_modules.read(folder, task.model())
    model = stored.model.eval().requires_grad_(False).to(torch_modules.dtype_of(notes["dtype"]))
    model = with_eight_bits(model, stored.layers, target)
    return stored, _channels_last(model) if notes["channels_last"] else model


def _prefers_channels_last(export: Export, model: nn.Module) -> bool:
    """Run the model on the target's device; True if it is faster with channels last.

    The model keeps its memory format. Raises Infeasible if it cannot run.
    """
    model, inputs = _on_target(export, model)
    with torch_modules.threads(export.target.threads):
        torch_modules.rehearse(model, inputs)
        if not any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
            return False
        first, last = in_turns.medians([model, _channels_last(copy.deepcopy(model))], inputs)
    return last < in_turns.GAIN * first


def _on_target(export: Export, model: nn.Module) -> tuple[nn.Module, Any]:
    """Return the model (a copy if it moves) and the example on the target's device."""
    inputs = torch_modules.inputs_as(export.example, export.encoding.dtype)
    device = export.target.device
    if on_host(device):
        return model, inputs
    return copy.deepcopy(model).to(device), transform(inputs, lambda t: t.to(device))


def _export_codes(export: Export) -> dict[str, Any]:
    """Write a model whose weights are codes; return the notes."""
    dtype = export.encoding.dtype
    encoded = coded_weights(export)
    model = torch_modules.converted(encoded.model, dtype)
    stored_modules.write(
        export.folder,
        export.reference,
        model,
        codes=encoded.codes,
        coder=export.encoding.coding,
    )
    channels_last = _prefers_channels_last(export, model)
    total = len(encoded.codes)
    kernels = _timed_kernels(
        export, _channels_last(model) if channels_last else model, encoded.codes
    )
    sentence = None
    if kernels.count:
        sentence = in_turns.kernel_remark(
            kernels.count, total, kernels.share, kernels=kernels.faster
        )
    coded = sum(codes.codes.numel() for codes in encoded.codes.values())
    return {
        "dtype": dtype,
        "channels_last": channels_last,
        "quantized_layers": total,
        "kernels": kernels.faster,
        "read_layers": kernels.read,
        **remarks(model, coded, unpacked=total - kernels.count * kernels.faster, sentence=sentence),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kernels:
    """Timing of linear layers that multiply by their codes."""

    count: int = 0
    """Number of such layers."""
    share: float = 1.0
    """Time of the model with them, as a share of its time with unpacked weights."""
    read: tuple[str, ...] = ()
    """Layers that are not replaced, since the model reads their parameters itself."""

    @property
    def faster(self) -> bool:
        """True if they are enough faster to be used."""
        return self.share < in_turns.GAIN


def _timed_kernels(export: Export, model: nn.Module, codes: Mapping[str, Codes]) -> _Kernels:
    """Time layers that multiply by their codes against unpacked weights."""
    model, inputs = _on_target(export, model)
    with torch_modules.threads(export.target.threads):
        read = tuple(linears(model, inputs).read)
        coded = copy.deepcopy(model)
        if not (count := with_codes(coded, codes, read)):
            return _Kernels()
        try:
            torch_modules.rehearse(coded, inputs)
        except Infeasible:  # the model runs with unpacked weights, not with these kernels
            return _Kernels()
        unpacked, with_kernels = in_turns.medians([model, coded], inputs)
    return _Kernels(count=count, share=with_kernels / unpacked, read=read)


def _all_linear(kinds: frozenset[str]) -> bool:
    return "Linear" in kinds and not any(kind.startswith("Conv") for kind in kinds)


def _refuses_float8(encoding: Encoding, kinds: frozenset[str]) -> str | None:
    if encoding.quantized:
        return "A layer multiplies in float8 or by integers, and both were asked for."
    if not _all_linear(kinds):
        return "Eager PyTorch's float8 layers are linear ones, and this model has others."
    return None


def _channels_last(model: nn.Module) -> nn.Module:
    # convolutions pass on the format of their weights, so the inputs need no conversion
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
