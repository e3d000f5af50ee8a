"""Silence third-party libraries: printed output, log records, warnings, telemetry."""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(*categories: type[Warning]) -> Iterator[None]:
    """Drop standard output, log records below ERROR and warnings of `categories` in the block.

    Standard output is reserved for data.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            for category in categories:
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def without_module(module: str) -> Iterator[None]:
    """Make `import module` fail in the block, unless it is loaded already.

    Libraries whose optional telemetry package is missing send nothing. No other switch spares both
    the user's home directory and the environment.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
