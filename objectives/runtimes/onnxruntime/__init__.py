"""ONNX Runtime on CPUs, from ONNX files."""

from objectives.runtimes.onnxruntime.runtime import Onnxruntime

__all__ = ["Onnxruntime"]
