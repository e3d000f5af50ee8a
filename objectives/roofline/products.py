"""Matrix products in each type for which PyTorch has kernels on a device."""

import contextlib
from collections.abc import Callable, Iterator

import torch

from objectives.exporting import rounded
from objectives.kernels import fbgemm, kernels_of, torch_private
from objectives.target import Target
from spaces.devices import device_of

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def precisions(target: Target) -> tuple[str, ...]:
    """Return the types whose products can be timed on a target's device.

    "tf32" are products of float32 numbers whose inputs tensor cores round to 10 bits.
    """
    kernels = kernels_of(target.device)
    lacking = {
        "tf32": device_of(target.device).accelerator is None,
        "int8": kernels.lacks_integers("float32") is not None,
        "float8": kernels.lacks("float8") is not None,
    }
    return (*FLOATS, *(name for name, lacks in lacking.items() if not lacks))


@contextlib.contextmanager
def product(precision: str, side: int, device: str) -> Iterator[Callable[[], object]]:
    """Yield a function that multiplies two square matrices of a type.

    TF32 is on meanwhile for "tf32" alone.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield _product(precision, torch.randn(side, side, device=device))
    finally:
        torch.set_float32_matmul_precision(before)


def _product(precision: str, values: torch.Tensor) -> Callable[[], object]:
    if precision == "float8":
        eight = values.to(torch.float8_e4m3fn)
        scale = torch.ones(len(values), 1, device=values.device)
        return lambda: torch_private.float8_product(eight, eight.t(), scale, scale.t(), None)
    if precision == "int8":
        return _integer_product(values)
    matrix = values.to(FLOATS.get(precision, torch.float32))
    outputs = torch.empty_like(matrix)
    return lambda: torch.mm(matrix, matrix, out=outputs)


def _integer_product(values: torch.Tensor) -> Callable[[], object]:
    """Return a product of 8-bit integers, on a CPU that of FBGEMM.

    PyTorch's plain product of integers has no vector instructions on most CPUs.
    """
    weight = rounded(values.cpu())
    if values.device.type == "cpu":
        return fbgemm.product(weight.values.clamp(min=0).to(torch.uint8), weight)
    integers = weight.values.to(values.device)
    return lambda: torch_private.int8_product(integers, integers.t())
