"""Versions of the packages that affect an artifact, for manifests and cache keys."""

import importlib.metadata
import platform

from objectives.runtime import Runtime

PACKAGES = ("torch", "torch-pruning", "numpy")
"""Packages that affect the artifacts of every runtime."""


def versions(*runtimes: Runtime) -> dict[str, str]:
    """Return the versions of Python, of PACKAGES and of the runtimes' packages.

    Packages that are not installed are left out.
    """
    packages = dict.fromkeys([*PACKAGES, *(p for r in runtimes for p in r.packages)])
    installed = {"python": platform.python_version()}
    for package in packages:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
