"""Entropy coding of an artifact's files by LZMA."""

import contextlib
import lzma
import tempfile
from collections.abc import Iterator
from pathlib import Path

SUFFIX = ".xz"
"""Added to the name of a compressed file."""
SAMPLE = 4 * 2**20
"""Bytes at the start of a file on which the settings are compared."""
SETTINGS = ({"lc": 3, "lp": 0, "pb": 2}, {"lc": 0, "lp": 0, "pb": 0}, {"lc": 0, "lp": 2, "pb": 2})
"""LZMA's contexts: for text and code, for independent bytes such as codes, for 4-byte words."""


class Undecodable(Exception):
    """A compressed file with damaged content."""


def compress(content: bytes) -> bytes:
    """Compress to the xz format with the settings that make the first SAMPLE bytes smallest."""
    head = content[:SAMPLE]
    attempts = [(_compressed(head, options), options) for options in SETTINGS]
    small, best = min(attempts, key=lambda attempt: len(attempt[0]))
    return small if len(head) == len(content) else _compressed(content, best)


def decompress(content: bytes) -> bytes:
    """Undo `compress`; raises Undecodable if the content is damaged."""
    try:
        return lzma.decompress(content, format=lzma.FORMAT_XZ)
    except (lzma.LZMAError, EOFError) as error:
        raise Undecodable(f"a coded file of the artifact is damaged: {error}") from error


def compress_files(folder: Path) -> None:
    """Replace each file in `folder` by its compressed form if that is smaller."""
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = file.read_bytes()
        compressed = compress(content)
        if len(compressed) < len(content):
            file.with_name(file.name + SUFFIX).write_bytes(compressed)
            file.unlink()


@contextlib.contextmanager
def decompressed_files(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder with the decompressed files of `folder`, removed after the block."""
    with tempfile.TemporaryDirectory(prefix="decoded-") as temporary:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            target = Path(temporary) / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == SUFFIX:
                target.with_suffix("").write_bytes(decompress(file.read_bytes()))
            else:
                target.write_bytes(file.read_bytes())
        yield Path(temporary)


@contextlib.contextmanager
def readable(folder: Path, name: str) -> Iterator[Path]:
    """Yield a folder in which the file `name` of `folder` is not compressed."""
    coded = not (folder / name).is_file()
    with decompressed_files(folder) if coded else contextlib.nullcontext(folder) as place:
        yield place


def _compressed(content: bytes, options: dict[str, int]) -> bytes:
    size = max(4096, min(64 * 2**20, len(content)))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": size, **options}]
    return lzma.compress(content, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=filters)
