"""PyTorch's low-bit kernels that have no public names.

torch.nn.functional.scaled_mm is public (beta), but it calls another operator than `_scaled_mm`.
"""

import torch
from torch import Tensor


def int8_product(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the int32 product of int8 matrices (m, k) and (k, n)."""
    return torch._int_mm(rows, columns)


def float8_product(
    rows: Tensor, columns: Tensor, row_scale: Tensor, column_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Return the scaled product of float8 matrices (m, k) and (k, n) with a bias, in bfloat16."""
    return torch._scaled_mm(
        rows,
        columns,
        scale_a=row_scale,
        scale_b=column_scale,
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def int8_weight_product(rows: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Return rows (m, k) times an int8 weight (n, k) with a scale (n,), in the type of the rows."""
    product: Tensor = torch.ops.aten._weight_int8pack_mm(rows, weight, scale)
    return product


def int4_weight_product_cuda(rows: Tensor, packed: Tensor, group: int, scales: Tensor) -> Tensor:
    """Return rows (m, k) times a packed 4-bit weight with a scale for each group of inputs."""
    product: Tensor = torch.ops.aten._weight_int4pack_mm(rows, packed, group, scales)
    return product


def int4_weight_product_cpu(rows: Tensor, packed: Tensor, group: int, scales: Tensor) -> Tensor:
    """Return rows (m, k) times a packed 4-bit weight with a scale for each group of inputs."""
    product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, group, scales)
    return product


def packed_for_cuda(pairs: Tensor, tiles: int) -> Tensor:
    """Pack uint8 pairs of 4-bit codes (rows, columns / 2) for the kernel of GPUs."""
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack(pairs, tiles)
    return packed


def packed_for_cpu(codes: Tensor) -> Tensor:
    """Pack int32 codes 0..15 (rows, columns) for the kernel of CPUs."""
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    return packed


def quantized(values: Tensor, scale: float) -> Tensor:
    """Return uint8 values with one scale as a quantized tensor."""
    return torch._make_per_tensor_quantized_tensor(values, scale, 0)


def quantized_by_row(values: Tensor, scale: Tensor) -> Tensor:
    """Return int8 values (rows, columns) with a scale (rows,) as a quantized tensor."""
    zeros = torch.zeros(len(values), dtype=torch.long)
    return torch._make_per_channel_quantized_tensor(values, scale.double(), zeros, 0)
