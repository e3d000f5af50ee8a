"""OpenVINO on CPUs."""

from objectives.runtimes.openvino.runtime import Openvino

__all__ = ["Openvino"]
