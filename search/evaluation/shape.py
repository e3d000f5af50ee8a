"""Facts about a model whose shape was edited: what was removed, and what could not be."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

from spaces import Left
from spaces.modules import surgery


@contextlib.contextmanager
def left_whole() -> Iterator[list[str]]:
    """Collect what techniques say that they left as it was, in whole sentences, until the end."""
    left: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Left)
        yield left
    for warning in caught:
        told = str(warning.message)
        if not issubclass(warning.category, Left):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
        elif told not in left:
            left.append(told)


def removed(reference: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Return, as facts, what `model` lacks of `reference`."""
    facts: dict[str, Any] = {"weights_removed": round(surgery.achieved(reference, model), 4)}
    if dropped := surgery.dropped(model):
        facts["layers_dropped"] = dropped
    return facts
