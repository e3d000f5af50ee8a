"""Count the operations of a run: twice the multiply-adds of its products.

Operators can be observed through a private module of PyTorch alone, and the one of attention on
CPUs has a private name.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Shape = Sequence[int]
Result = TypeVar("Result")

OWN = ("aten", "prim", "prims")
"""Namespaces of PyTorch's operators; those of others may compute anything."""
WITHOUT_FORMULA = frozenset({"_trilinear", "_fft_r2c", "_fft_c2c", "_fft_c2r", "_cdist_forward"})
"""PyTorch's operators that multiply and add, and of which the counter knows no formula."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operations:
    """Operations of one run."""

    count: int
    """Twice the multiply-adds of matrix products, convolutions and attention. Element-wise
    operations do not count."""
    uncounted: tuple[str, ...] = ()
    """Names of operators that were run and may have products that `count` leaves out."""


def counted(run: Callable[[], Result]) -> tuple[Result, Operations]:
    """Return the result of a function that runs a model, and the operations of that run.

    Zero weights count like others.
    """
    counter: Any = FlopCounterMode(display=False, custom_mapping=_formulas())
    with _Executed() as executed, counter, _separate_operators():
        result = run()
    uncounted = {
        op.name()
        for op in executed.operators
        if op.namespace not in OWN or op.overloadpacket.__name__ in WITHOUT_FORMULA
    }
    operations = Operations(
        count=int(counter.get_total_flops()), uncounted=tuple(sorted(uncounted))
    )
    return result, operations


class _Executed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the operators that are executed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: set[Any] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.operators.add(func)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _separate_operators() -> Iterator[None]:
    """Let transformer layers call an operator per product, not one for the whole layer."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _formulas() -> dict[Any, Any]:
    """Return the formulas of CPU operators that PyTorch's counter lacks."""
    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten.mkldnn_rnn_layer: _lstm,
    }


def _attention(queries: Shape, keys: Shape, values: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(queries, keys, values))  # type: ignore[no-untyped-call]


def _lstm(inputs: Shape, to_gates: Shape, from_state: Shape, *_: Any, **__: Any) -> int:
    """Return the operations of an LSTM layer in one direction; inputs are (steps, batch, size)."""
    steps, batch = inputs[:2]
    return 2 * steps * batch * (_values(to_gates) + _values(from_state))


def _values(matrix: Shape) -> int:
    rows, columns = matrix
    return rows * columns
