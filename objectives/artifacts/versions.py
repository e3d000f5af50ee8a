"""Versions of what shapes an artifact, for manifests and cache keys."""

import importlib.metadata
import platform

from objectives.runtime import Runtime

PACKAGES = ("torch", "torch-pruning", "numpy")
"""What shapes artifacts of every runtime."""


def versions(*runtimes: Runtime) -> dict[str, str]:
    """Return the versions of Python, of what builds any model, and of the runtimes' packages.

    What is not installed is left out.
    """
    packages = dict.fromkeys([*PACKAGES, *(p for r in runtimes for p in r.packages)])
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
