"""Facts about a model with an edited shape: parts removed, and parts that could not be changed."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

from spaces import Left
from spaces.modules import surgery


@contextlib.contextmanager
def collect_left() -> Iterator[list[str]]:
    """Collect the messages of Left warnings in a list, which is complete when the context ends."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Left)
        yield messages
    for warning in caught:
        message = str(warning.message)
        if not issubclass(warning.category, Left):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
        elif message not in messages:
            messages.append(message)


def removal_facts(reference: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Return the facts about weights and layers of `reference` that `model` lacks."""
    facts: dict[str, Any] = {"weights_removed": round(surgery.achieved(reference, model), 4)}
    if dropped := surgery.dropped(model):
        facts["layers_dropped"] = dropped
    return facts
