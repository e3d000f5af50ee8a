"""The techniques of stage SHAPE at work, and what is to be told of the model that they return."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from spaces import Left, Task, Technique
from spaces import _surgery as surgery


def shaped(
    settings: Sequence[Technique],
    model: nn.Module,
    task: Task,
    begin: Callable[[Technique], None] = lambda setting: None,
) -> tuple[nn.Module, list[str]]:
    """Return `model` as the settings edit it, and what they left whole, in whole sentences.

    `begin` is told of each setting before it edits.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Left)
        for setting in settings:
            begin(setting)
            model = setting.apply(model, task)
    left: dict[str, None] = {}
    for warning in caught:
        if issubclass(warning.category, Left):
            left[str(warning.message)] = None
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return model, list(left)


def removed(reference: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Return, as facts, what `model` lacks of `reference`."""
    facts: dict[str, Any] = {"weights_removed": round(surgery.achieved(reference, model), 4)}
    if dropped := surgery.dropped(model):
        facts["layers_dropped"] = dropped
    return facts


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """Return what of these facts a reader should know."""
    dropped = facts.get("layers_dropped", [])
    told = [f"Dropped: {', '.join(dropped)}."] if dropped else []
    return [*told, *facts.get("left", [])]
