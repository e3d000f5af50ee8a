"""Facts about the outputs of a task's model that decide which dimensions matter."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """Facts about a model's outputs; with the defaults, every dimension matters."""

    classes: bool = True
    """Whether any distilled output has classes, that is, more than one column."""
