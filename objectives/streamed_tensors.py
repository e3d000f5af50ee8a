"""Safetensors files that are written batch by batch, so that no tensor is whole in memory."""

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from objectives.host import new_file

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of types in the header of a safetensors file."""


@dataclasses.dataclass(kw_only=True)
class _Column:
    """A tensor whose rows come one batch after another."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    """Shape of one row."""
    raw: IO[bytes]
    """File of the rows so far."""
    rows: int = 0


class TensorStream:
    """Tensors that grow along dimension 0 in temporary files, to be stored as one file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._columns: dict[str, _Column] = {}

    def append(self, name: str, batch: Tensor) -> None:
        """Add rows to a tensor; raises ValueError if their type or shape is another one."""
        batch = batch.detach().cpu().contiguous()
        if batch.dim() == 0:
            raise ValueError(f"{name} must have the samples in dimension 0, got a scalar")
        kind = (batch.dtype, tuple(batch.shape[1:]))
        if name not in self._columns:
            if batch.dtype not in DTYPES:
                raise ValueError(f"{name} is of type {batch.dtype}, which cannot be stored")
            raw = (self._folder / f"{len(self._columns)}.raw").open("w+b")
            self._columns[name] = _Column(dtype=kind[0], shape=kind[1], raw=raw)
        column = self._columns[name]
        if kind != (column.dtype, column.shape):
            raise ValueError(
                f"{name} has rows of {_kind(*kind)} in one batch and of "
                f"{_kind(column.dtype, column.shape)} in another"
            )
        column.raw.write(batch.reshape(-1).view(torch.uint8).numpy().data)
        column.rows += len(batch)

    def store(self, file: Path) -> None:
        """Write all tensors into one safetensors file, which appears complete or not at all."""
        header, offset = {}, 0
        for name, column in self._columns.items():
            size = column.raw.tell()
            header[name] = {
                "dtype": DTYPES[column.dtype],
                "shape": [column.rows, *column.shape],
                "data_offsets": [offset, offset + size],
            }
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8, as readers ask for
        with new_file(file) as draft, draft.open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for column in self._columns.values():
                column.raw.seek(0)
                shutil.copyfileobj(column.raw, out)

    def close(self) -> None:
        """Close the temporary files."""
        for column in self._columns.values():
            column.raw.close()


@contextlib.contextmanager
def tensor_stream(folder: Path) -> Iterator[TensorStream]:
    """Yield a stream whose temporary files lie in `folder` and are removed after the block."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        stream = TensorStream(Path(place))
        try:
            yield stream
        finally:
            stream.close()


def _kind(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"
