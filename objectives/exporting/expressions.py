"""Expressions of the lines that run an artifact without this package."""

from objectives.runtime import Signature


def zeros(signature: Signature) -> str:
    """Return the expression of a batch of zeros: numpy's arrays by the names of the inputs."""
    entries = zip(signature.input_names, signature.input_shapes, signature.input_types, strict=True)
    arrays = [f"{name!r}: numpy.zeros({shape}, {kind!r})" for name, shape, kind in entries]
    return "{" + ", ".join(arrays) + "}"
