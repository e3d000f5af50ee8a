"""Inductor packages: compile, write and load them.

torch._inductor is private by name, but PyTorch documents two of its functions, aoti_load_package
and aoti_compile_and_package. The latter also packs the generated sources, so its two steps are
called separately here. The former first compiles test programs, to learn which vector instructions
the processor has and warn if the package was made for others; the loader in C++ that it then calls
is called alone here.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch._inductor as inductor
from torch import Tensor, fx, nn
from torch._inductor import cpu_vec_isa

from objectives.exporting import quiet
from spaces.modules import flatten

with quiet(FutureWarning, DeprecationWarning, UserWarning):
    # on import it logs missing CUDA libraries
    from torch._inductor.package.package import package_aoti


def compiled(
    module: fx.GraphModule, inputs: tuple[Tensor, ...], options: dict[str, Any]
) -> list[Any]:
    """Compile a module and return the paths of the generated files, sources included.

    Settings that this release of Inductor does not know are left out.
    """
    known = inductor.config.get_config_copy()
    options = {key: value for key, value in options.items() if key in known}
    files = inductor.aot_compile(module, inputs, options=options)
    assert isinstance(files, list)
    return files


def write(package: Path, files: Sequence[Any]) -> None:
    """Write compiled files as one package."""
    package_aoti(str(package), list(files))


def loader(package: Path, *, single_threaded: bool = False, device_index: int = -1) -> Any:
    """Load a package; the loader's boxed_run takes a list of tensors and empties it.

    `device_index` is that of a GPU, -1 for the current one. Raises RuntimeError if the package is
    not for this device or this release.
    """
    runners = 1
    return torch._C._aoti.AOTIModelPackageLoader(
        str(package), "model", single_threaded, runners, device_index
    )


def error(package: Path, module: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Return the distance of a package's outputs from those of the module that it was made from.

    It is a share of the norm of the module's floating-point outputs. Packages of a ResNet-50 with
    folded constants computed something else on a GPU, without an error.
    """
    runner = loader(package, single_threaded=True)
    with torch.inference_mode():
        wanted = flatten(module(*inputs))[0]
        found = list(runner.boxed_run(list(inputs)))
    pairs = [(f, w) for f, w in zip(found, wanted, strict=True) if w.is_floating_point()]
    norm = sum(float(w.float().square().sum()) for _, w in pairs)
    distance = sum(float((f.float() - w.float()).square().sum()) for f, w in pairs)
    return math.sqrt(distance / norm) if norm else math.sqrt(distance)


@contextlib.contextmanager
def without_vector_tests() -> Iterator[None]:
    """Let Inductor compile in the block without tests of the processor's vector instructions.

    Each test compiles a program and loads it in a fresh process, ten of them on a processor with
    AMX. A package whose loops all run on a GPU has no use for their answers.
    """
    before = list(cpu_vec_isa.supported_vec_isa_list)
    cpu_vec_isa.supported_vec_isa_list.clear()
    cpu_vec_isa.valid_vec_isa_list.cache_clear()
    try:
        yield
    finally:
        cpu_vec_isa.supported_vec_isa_list.extend(before)
        cpu_vec_isa.valid_vec_isa_list.cache_clear()
