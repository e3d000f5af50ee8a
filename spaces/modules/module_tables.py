"""Access to the tables in which a module keeps its tensors and submodules.

torch.nn.Module has no public way to replace the tables: its methods edit them in place, and copies
of a module may share them.
"""

from typing import Any

from torch import nn


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a module by name, without those of its submodules."""
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


def copied_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return a module's attributes with copies of its tables of tensors, not of the tensors."""
    tables = ("_parameters", "_buffers")
    return {key: dict(value) if key in tables else value for key, value in attributes.items()}


def empty(module: nn.Module) -> None:
    """Remove all tensors and submodules from a module; the old tables are not changed."""
    vars(module).update(_modules={}, _parameters={}, _buffers={}, _non_persistent_buffers_set=set())
