"""Program that PJRT runs: a StableHLO module, compiled for the processor of this machine."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from objectives.execution import Operation
from objectives.runtime import Program, Signature
from objectives.runtimes.xla import optimized
from objectives.runtimes.xla.files import MODULE, WEIGHTS
from objectives.target import Target

_NARROW = {"float64": "float32", "int64": "int32"}
"""Types that JAX has in 32 bits unless a process is started otherwise."""


def start(threads: int) -> None:
    """Start XLA's client for the CPU with a pool of `threads` threads, unless one is started.

    The client reads NPROC, and otherwise takes all cores that the process may use. A computation on
    the CPU is run in the thread that calls it, which waits for it anyhow.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(threads)
    try:
        jax.devices()
    finally:
        if before is None:
            del os.environ["NPROC"]
        else:
            os.environ["NPROC"] = before


def taken(dtype: torch.dtype) -> Any:
    """Return the JAX type in which a module takes tensors of a type of PyTorch."""
    name = str(dtype).removeprefix("torch.")
    return jnp.dtype(_NARROW.get(name, name))


class Compiled:
    """A compiled module, called with a list of inputs on the device."""

    def __init__(self, executable: Any, types: Sequence[Any], weights: tuple[Any, ...]) -> None:
        self.executable = executable
        self._types = types
        self._weights = weights

    def __call__(self, inputs: Sequence[Any]) -> Any:
        """Return the outputs, which are computed."""
        return jax.block_until_ready(self.executable(*self._weights, *inputs))

    def placed(self, tensors: Sequence[Tensor]) -> list[Any]:
        """Return the inputs on the device in the module's types; raises ValueError for integers
        that do not fit into them."""
        return [_placed(t, kind) for t, kind in zip(tensors, self._types, strict=True)]


def compiled(folder: Path, *, threads: int, constant: bool) -> Compiled:
    """Compile the module in a folder, with its weights as constants or as arguments."""
    module = jax.export.deserialize(bytearray((folder / MODULE).read_bytes()))
    weights = load_file(folder / WEIGHTS)
    (_, *inputs), _ = jax.tree.unflatten(module.in_tree, module.in_avals)
    options = {"xla_cpu_multi_thread_eigen": threads > 1}
    if constant:
        function: Any = jax.jit(lambda *inputs: module.call(weights, *inputs))
        arguments: tuple[Any, ...] = ()
    else:
        function, arguments = jax.jit(module.call), (jax.device_put(weights),)
    executable = function.lower(*arguments, *inputs).compile(compiler_options=options)
    return Compiled(executable, [aval.dtype for aval in inputs], arguments)


def _placed(tensor: Tensor, kind: Any) -> Any:
    if tensor.dtype == torch.int64 and tensor.numel():
        low, high = int(tensor.min()), int(tensor.max())
        if low < -(2**31) or high >= 2**31:
            raise ValueError(f"XLA computes with 32-bit integers, got inputs {low} to {high}")
    plain = tensor.float() if tensor.is_floating_point() else tensor
    return jax.device_put(np.ascontiguousarray(plain.numpy()).astype(kind))


class PjrtProgram(Program):
    """Program of a compiled module; feeds and outputs are arrays on the device."""

    def __init__(
        self, signature: Signature, target: Target, folder: Path, *, constant: bool
    ) -> None:
        super().__init__(signature, target, folder)
        start(target.threads)
        self._compiled = compiled(folder, threads=target.threads, constant=constant)

    def feed(self, tensors: list[Tensor]) -> list[Any]:
        """Copy the inputs to the device, in the types that the module takes."""
        return self._compiled.placed(tensors)

    def run(self, feed: list[Any]) -> Any:
        """Execute one batch and wait for it."""
        return self._compiled(feed)

    def read(self, raw: Any) -> list[Tensor]:
        """Copy the outputs, floating-point ones in float32."""
        return [_owned(array) for array in raw]

    def operations(self, feed: list[Any]) -> tuple[Operation, ...]:
        """Return the products of the optimised program; its profile has no times of them."""
        del feed
        return optimized.products(self._compiled.executable.as_text())


def _owned(array: Any) -> Tensor:
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return torch.from_numpy(np.array(array, np.float32 if floating else None))
