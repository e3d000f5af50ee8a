"""What the recipes share: plain loading and calling of files, without anything of the product."""

import copy
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
import openvino
import torch
from torch import Tensor, nn

ONNX = "model.onnx"
OPENVINO = "model.xml"


class Skipped(Exception):
    """A recipe that does not apply to this model or machine; the message is the reason."""


class Program(Protocol):
    """Something loaded that computes outputs from inputs."""

    def feed(self, inputs: Any) -> Any:
        """Return the user's inputs of one batch in the form that `run` takes."""

    def run(self, feed: Any) -> Any:
        """Execute one batch: the only thing that is timed."""

    def read(self, raw: Any) -> Tensor:
        """Return what `run` returned as a float32 tensor of its own memory."""


class OnnxProgram:
    """An ONNX file in ONNX Runtime on the CPU."""

    def __init__(self, file: Path, threads: int, **entries: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for name, value in entries.items():
            options.add_session_config_entry(f"session.{name}", value)
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        self.names = [entry.name for entry in self.session.get_inputs()]

    def feed(self, inputs: Any) -> dict[str, Any]:
        """Return the inputs by the file's names."""
        return dict(zip(self.names, arrays(inputs), strict=True))

    def run(self, feed: Any) -> Any:
        """Execute one batch."""
        return self.session.run(None, feed)

    def read(self, raw: Any) -> Tensor:
        """Return the first output."""
        return torch.from_numpy(np.asarray(raw[0])).float()


class OpenvinoProgram:
    """An OpenVINO file on the CPU, at a precision that OpenVINO calls f32, bf16 or f16."""

    def __init__(self, file: Path, threads: int, precision: str, **more: Any) -> None:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
            **more,
        }
        compiled = openvino.Core().compile_model(str(file), "CPU", settings)
        self.request = compiled.create_infer_request()

    def feed(self, inputs: Any) -> list[Any]:
        """Return the inputs by their position."""
        return arrays(inputs)

    def run(self, feed: Any) -> Any:
        """Execute one batch without copying inputs or outputs."""
        return self.request.infer(feed, share_inputs=True, share_outputs=True)

    def read(self, raw: Any) -> Tensor:
        """Return the first output."""
        return torch.from_numpy(np.array(raw[0])).float()


class ModuleProgram:
    """A PyTorch module, compiled or not."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def feed(self, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments."""
        return arguments(inputs)

    def run(self, feed: Any) -> Any:
        """Execute one batch."""
        with torch.inference_mode():
            return self.model(*feed[0], **feed[1])

    def read(self, raw: Any) -> Tensor:
        """Return the outputs."""
        return torch.as_tensor(raw).float().clone()


class _Positional(nn.Module):
    """A model that takes its input tensors by position, so that files have one input order."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = list(names)

    def forward(self, *tensors: Tensor) -> Any:
        if self.names:
            return self.model(**dict(zip(self.names, tensors, strict=True)))
        return self.model(*tensors)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a batch of inputs as the positional and keyword arguments of forward."""
    if isinstance(inputs, dict):
        return (), inputs
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def tensors(inputs: Any) -> list[Tensor]:
    """Return the tensors of a batch of inputs in their order."""
    positional, named = arguments(inputs)
    return [*positional, *named.values()]


def filled(inputs: Any, size: int) -> Any:
    """Return a batch filled up to `size` samples with copies of its last one."""
    if isinstance(inputs, dict):
        return {name: _filled(tensor, size) for name, tensor in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_filled(tensor, size) for tensor in inputs)
    return _filled(inputs, size)


def _filled(tensor: Tensor, size: int) -> Tensor:
    missing = size - len(tensor)
    return (
        torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor
    )


def arrays(inputs: Any) -> list[Any]:
    """Return the arrays of a batch of inputs in their order."""
    return [tensor.contiguous().numpy() for tensor in tensors(inputs)]


def positional(model: nn.Module, inputs: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a copy of `model` that takes its inputs by position, and those inputs."""
    names = list(inputs) if isinstance(inputs, dict) else []
    return _Positional(copy.deepcopy(model), names).eval(), tuple(tensors(inputs))


def export_onnx(model: nn.Module, inputs: Any, file: Path) -> None:
    """Write `model` at the shapes of `inputs`: runtimes plan better for shapes that are fixed."""
    wrapped, examples = positional(model, inputs)
    names = [f"input_{index}" for index in range(len(examples))]
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapped,
            examples,
            file,
            dynamo=True,
            external_data=False,
            input_names=names,
            output_names=["output_0"],
            verbose=False,
        )


def convert_openvino(model: nn.Module, inputs: Any) -> Any:
    """Return `model` as an OpenVINO model at the shapes of `inputs`."""
    wrapped, examples = positional(model, inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.export.export(wrapped, examples)
        converted = openvino.convert_model(exported)
    converted.reshape(dict(enumerate(list(tensor.shape) for tensor in examples)))
    return converted


def has_dot_products() -> bool:
    """Whether the CPU sums 8-bit products in 32 bits; True also where that cannot be known."""
    source = Path("/proc/cpuinfo")
    if platform.machine().lower() not in ("x86_64", "amd64") or not source.is_file():
        return True
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & set(source.read_text().split()))


def share_in_linear(model: nn.Module) -> float:
    """Return the share of a model's weights that its linear layers hold, 0 to 1."""
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    return linear / max(1, sum(p.numel() for p in model.parameters()))
