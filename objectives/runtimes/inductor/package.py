"""Ahead-of-time compilation by Inductor: its settings, and writing and loading of packages.

torch._inductor is private by name, though PyTorch documents two of its functions:
aoti_load_package, and aoti_compile_and_package. The latter packs the generated sources as well,
so its two steps are called here instead.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch._inductor as inductor
from torch import Tensor, fx

from objectives.exporting import quiet

with quiet(FutureWarning, DeprecationWarning, UserWarning):
    # it logs CUDA libraries that are not there
    from torch._inductor.package.package import package_aoti


def compiled(
    module: fx.GraphModule, inputs: tuple[Tensor, ...], options: dict[str, Any]
) -> list[Any]:
    """Return the paths of what was compiled, sources among them, for a package."""
    files = inductor.aot_compile(module, inputs, options=options)
    assert isinstance(files, list)
    return files


def write(package: Path, files: Sequence[Any]) -> None:
    """Write compiled files as one package."""
    package_aoti(str(package), list(files))


def loader(package: Path, **options: Any) -> Any:
    """Return the loader of a package; its boxed_run takes a list of tensors, which it empties."""
    return inductor.aoti_load_package(str(package), **options).loader


def settings() -> set[str]:
    """Return the names of the settings that this release of Inductor knows."""
    return set(inductor.config.get_config_copy())
