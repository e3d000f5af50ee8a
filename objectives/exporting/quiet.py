"""Keeping third-party libraries silent: standard output is for data, the network is not theirs."""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(*categories: type[Warning]) -> Iterator[None]:
    """Drop what is printed, logged below an error, and warned of in `categories`."""
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
def absent(module: str) -> Iterator[None]:
    """Make `import module` fail meanwhile, unless it is loaded already.

    Libraries whose optional telemetry package is missing fall back to sending nothing; that is
    the only switch that neither writes into the user's home nor changes the environment.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
