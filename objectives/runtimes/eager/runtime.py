"""PyTorch itself, layer by layer: what the user's model runs on before anything is done."""

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

    8-bit weights with 8-bit activations are FBGEMM's dynamic linear layers: the range of the
    activations is found at every call, so nothing is calibrated. Weights of few bits without
    quantized activations are stored packed. Linear layers multiply by them as they are where
    PyTorch's weight-only kernels were faster than unpacked weights when the artifact was exported;
    all others are unpacked when it is loaded.
    """

    reads = CODED | {"activation_bits", "calibration", "calibration_samples", "coding", "dtype"}
    packages = ("torchao",)
    splits = True

    def lacks_kernels(
        self, encoding: Encoding, target: Target, kinds: frozenset[str]
    ) -> str | None:
        """Return why an encoding has no real kernels here."""
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
        if not _linear(kinds):
            return "Eager PyTorch's 8-bit layers are linear ones, and this model has others."
        return kernels.lacks_integers(encoding.dtype)

    def export(self, export: Export) -> dict[str, Any]:
        """Write weights and architecture; choose the memory format by timing both."""
        encoding = export.encoding
        if encoding.quantized and encoding.activation_bits == 32:
            return _export_codes(export)
        model = torch_modules.converted(export.model, encoding.dtype)
        kind = torch.float8_e4m3fn if encoding.dtype == "float8" else torch.int8
        layers: dict[str, stored_modules.Rounded] = {}
        notes: dict[str, Any] = {}
        if multiplies_in_8_bits(encoding):
            layers, notes = eight_bits(*_placed(export, model), encoding, export.target)
        stored_modules.write(export.folder, export.reference, model, layers, kind=kind)
        model = with_eight_bits(model, layers, export.target)
        return {"dtype": encoding.dtype, "channels_last": _tried(export, model), **notes}

    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Rebuild the model from the task's code, and let PyTorch use the target's threads."""
        torch.set_num_threads(target.threads)
        dtype = torch_modules.dtype_of(notes["dtype"])
        stored, model = _loaded(folder, task, notes, target)
        model = model.to(target.device)
        with_semi_structured(model)
        if notes.get("kernels"):
            with_codes(model, stored.codes, notes.get("read_layers", ()))
        if device_of(target.device).accelerator:
            function = torch_modules.as_function(model, signature.inputs)
            return AcceleratorProgram(signature, target, folder, function=function, dtype=dtype)
        return torch_modules.ModuleProgram(signature, target, folder, model=model, dtype=dtype)

    def module(self, folder: Path, task: Task, notes: dict[str, Any]) -> nn.Module:
        """Rebuild the model from the task's code."""
        return _loaded(folder, task, notes, Target())[1]


def _loaded(
    folder: Path, task: Task, notes: dict[str, Any], target: Target
) -> tuple[stored_modules.Stored, nn.Module]:
    """Rebuild the model from the task's code, on the CPU, with the 8-bit layers of a device."""
    stored = stored_modules.read(folder, task.model())
    model = stored.model.eval().requires_grad_(False).to(torch_modules.dtype_of(notes["dtype"]))
    model = with_eight_bits(model, stored.layers, target)
    return stored, _channels_last(model) if notes["channels_last"] else model


def _tried(export: Export, model: nn.Module) -> bool:
    """Run the model once where it is to run; return whether it prefers its channels last.

    The model stays in the memory format that it has.
    """
    model, inputs = _placed(export, model)
    with torch_modules.threads(export.target.threads):
        torch_modules.rehearse(model, inputs)
        if not any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
            return False
        old, new = in_turns.medians([model, _channels_last(copy.deepcopy(model))], inputs)
    return new < in_turns.GAIN * old


def _placed(export: Export, model: nn.Module) -> tuple[nn.Module, Any]:
    """Return a model, copied if it moves, and the example, both where they are to run."""
    inputs = torch_modules.inputs_as(export.example, export.encoding.dtype)
    device = export.target.device
    if on_host(device):
        return model, inputs
    return copy.deepcopy(model).to(device), transform(inputs, lambda t: t.to(device))


def _export_codes(export: Export) -> dict[str, Any]:
    """Write a model whose weights are codes."""
    name = export.encoding.dtype
    whole = coded_weights(export)
    model = torch_modules.converted(whole.model, name)
    stored_modules.write(
        export.folder,
        export.reference,
        model,
        codes=whole.codes,
        coder=export.encoding.coding,
    )
    last = _tried(export, model)
    every = len(whole.codes)
    kernels = _shortcut(export, _channels_last(model) if last else model, whole.codes)
    sentence = None
    if kernels.count:
        sentence = in_turns.kernel_remark(
            kernels.count, every, kernels.share, kernels=kernels.faster
        )
    coded = sum(own.codes.numel() for own in whole.codes.values())
    return {
        "dtype": name,
        "channels_last": last,
        "quantized_layers": every,
        "kernels": kernels.faster,
        "read_layers": kernels.read,
        **remarks(model, coded, unpacked=every - kernels.count * kernels.faster, sentence=sentence),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kernels:
    """How linear layers fare that multiply by their codes."""

    count: int = 0
    """How many there are."""
    share: float = 1.0
    """Their model's time as a share of that with unpacked weights."""
    read: tuple[str, ...] = ()
    """Layers that stay as they are, since the model reads their parameters itself."""

    @property
    def faster(self) -> bool:
        """Whether they are worth it."""
        return self.share < in_turns.GAIN


def _shortcut(export: Export, model: nn.Module, codes: Mapping[str, Codes]) -> _Kernels:
    """Time layers that multiply by their codes against unpacked weights."""
    model, inputs = _placed(export, model)
    with torch_modules.threads(export.target.threads):
        read = tuple(linears(model, inputs).read)
        coded = copy.deepcopy(model)
        if not (count := with_codes(coded, codes, read)):
            return _Kernels()
        try:
            torch_modules.rehearse(coded, inputs)
        except Infeasible:  # unpacked weights run: what there is of kernels does not suit the model
            return _Kernels()
        dense, own = in_turns.medians([model, coded], inputs)
    return _Kernels(count=count, share=own / dense, read=read)


def _linear(kinds: frozenset[str]) -> bool:
    return "Linear" in kinds and not any(kind.startswith("Conv") for kind in kinds)


def _refuses_float8(encoding: Encoding, kinds: frozenset[str]) -> str | None:
    if encoding.quantized:
        return "A layer multiplies in float8 or by integers, and both were asked for."
    if not _linear(kinds):
        return "Eager PyTorch's float8 layers are linear ones, and this model has others."
    return None


def _channels_last(model: nn.Module) -> nn.Module:
    # convolutions hand the format of their weights on, so the inputs may stay as they are
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
