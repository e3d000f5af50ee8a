"""Entropy coding of an artifact's files: coded when written, decoded when loaded."""

import contextlib
import lzma
import tempfile
from collections.abc import Iterator
from pathlib import Path

SUFFIX = ".xz"
SAMPLE = 4 * 2**20
"""Bytes on which the settings are compared."""
SETTINGS = ({"lc": 3, "lp": 0, "pb": 2}, {"lc": 0, "lp": 0, "pb": 0}, {"lc": 0, "lp": 2, "pb": 2})
"""LZMA's contexts: text and code; independent bytes, as codes are; words of four bytes."""


class Undecodable(Exception):
    """A coded file whose content is damaged."""


def coded(content: bytes) -> bytes:
    """Return `content` in the xz format, with the settings that make its start smallest."""
    head = content[:SAMPLE]
    attempts = [(_compressed(head, options), options) for options in SETTINGS]
    small, best = min(attempts, key=lambda attempt: len(attempt[0]))
    return small if len(head) == len(content) else _compressed(content, best)


def decoded(content: bytes) -> bytes:
    """Return what `coded` was given; raises Undecodable when it was altered."""
    try:
        return lzma.decompress(content, format=lzma.FORMAT_XZ)
    except (lzma.LZMAError, EOFError) as error:
        raise Undecodable(f"a coded file of the artifact is damaged: {error}") from error


def code_files(folder: Path) -> None:
    """Replace every file in `folder` by its coded form where that is smaller."""
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = file.read_bytes()
        small = coded(content)
        if len(small) < len(content):
            file.with_name(file.name + SUFFIX).write_bytes(small)
            file.unlink()


@contextlib.contextmanager
def decoded_files(folder: Path) -> Iterator[Path]:
    """Yield a private temporary folder with the files of `folder` as they were, then remove it."""
    with tempfile.TemporaryDirectory(prefix="decoded-") as place:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            target = Path(place) / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == SUFFIX:
                target.with_suffix("").write_bytes(decoded(file.read_bytes()))
            else:
                target.write_bytes(file.read_bytes())
        yield Path(place)


def _compressed(content: bytes, options: dict[str, int]) -> bytes:
    size = max(4096, min(64 * 2**20, len(content)))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": size, **options}]
    return lzma.compress(content, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=filters)
