"""OpenVINO on CPUs, from its intermediate representation."""

from objectives.runtimes.openvino.runtime import Openvino

__all__ = ["Openvino"]
