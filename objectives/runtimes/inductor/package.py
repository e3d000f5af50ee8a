"""Inductor packages: compile, write and load them, and list Inductor's settings.

torch._inductor is private by name, but PyTorch documents two of its functions, aoti_load_package
and aoti_compile_and_package. The latter also packs the generated sources, so its two steps are
called separately here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch._inductor as inductor
from torch import Tensor, fx

from objectives.exporting import quiet

with quiet(FutureWarning, DeprecationWarning, UserWarning):
    # on import it logs missing CUDA libraries
    from torch._inductor.package.package import package_aoti


def compiled(
    module: fx.GraphModule, inputs: tuple[Tensor, ...], options: dict[str, Any]
) -> list[Any]:
    """Compile a module and return the paths of the generated files, sources included."""
    files = inductor.aot_compile(module, inputs, options=options)
    assert isinstance(files, list)
    return files


def write(package: Path, files: Sequence[Any]) -> None:
    """Write compiled files as one package."""
    package_aoti(str(package), list(files))


def loader(package: Path, **options: Any) -> Any:
    """Load a package; the loader's boxed_run takes a list of tensors and empties it."""
    return inductor.aoti_load_package(str(package), **options).loader


def settings() -> set[str]:
    """Return the names of the settings that this release of Inductor knows."""
    return set(inductor.config.get_config_copy())
