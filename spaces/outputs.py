"""What is known of the outputs of a task's model before the search."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """What decides which dimensions matter; as long as nothing is known, all of them do."""

    classes: bool = True
    """Whether any output that is distilled has classes: more than one column."""
