"""ONNX Runtime on CPUs."""

from objectives.runtimes.onnxruntime.runtime import Onnxruntime

__all__ = ["Onnxruntime"]
