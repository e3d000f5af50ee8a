"""The Technique base class: a family of model changes whose instance is one setting."""

import abc
import dataclasses
import enum
from collections.abc import Collection
from typing import Any, ClassVar, Self

from torch import nn

from spaces.memory import Memory
from spaces.outputs import Outputs
from spaces.plan import Plan
from spaces.task import Task
from spaces.tools import Prepared, Tools


class Scope(enum.StrEnum):
    """The set of points that a reason for infeasibility rules out."""

    POINT = "point"
    """The one point."""
    TECHNIQUE = "technique"
    """All settings of the technique that change this model."""
    RUNTIME = "runtime"
    """All candidates of this model in the same runtime."""


class Infeasible(Exception):
    """Raised for a point that cannot be built or executed; the message is the reason, one sentence.

    `scope` is the set of points that the reason rules out.
    """

    def __init__(self, reason: str, *, scope: Scope = Scope.POINT) -> None:
        super().__init__(reason)
        self.scope = scope


class Left(UserWarning):
    """Warning about parts of a model that a technique left unchanged; whole sentences.

    Unlike other warnings it is stored with the candidate and shown wherever the candidate is.
    """


class Stage(enum.IntEnum):
    """Stages of building a candidate, in the order in which settings take effect."""

    SHAPE = 1
    TRAIN = 2
    ENCODE = 3
    DEPLOY = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Technique(abc.ABC):
    """A family of model changes; one instance is one setting of it.

    Fields made by `axis` are searched, the others are fixed by the experiment. An instance with
    default searched fields must leave the model's outputs unchanged.
    """

    stage: ClassVar[Stage]
    rank: ClassVar[int] = 0
    """Position within the stage, ascending. Coarse edits come first, since they would undo the fit
    of finer ones."""

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the edited model; `model` is a copy and may be edited in place.

        Only techniques of stage SHAPE override this, or `edit`. Raises Infeasible with a reason if
        the model cannot be edited.
        """
        del task
        return model

    def edit(self, model: nn.Module, task: Task, memory: Memory) -> nn.Module:
        """Return the edited model like `apply`; `memory` keeps what other settings need too."""
        del memory
        return self.apply(model, task)

    def plan(self, plan: Plan) -> Plan:
        """Return `plan` with this setting's training, encoding and deployment."""
        return plan

    def prepare(self, model: nn.Module, plan: Plan, tools: Tools) -> Prepared:
        """Return `plan` with the values that depend on `model`, which has the candidate's shape.

        Called after all edits of stage SHAPE and before training and export. `model` must not be
        edited.
        """
        del model, tools
        return Prepared(plan=plan)

    def canonical(self) -> Self:
        """Return the simplest setting that builds the same candidate: unused fields are neutral."""
        return self

    def settled(self, plan: Plan, outputs: Outputs) -> Self:
        """Return the simplest setting that builds the same candidate as part of `plan`.

        `canonical` considers this setting alone. This method also neutralises fields that have no
        effect because of the other settings (for example all training options if nothing is
        trained) or because of the outputs of the task's model.
        """
        del plan, outputs
        return self

    def short(self, searched: Collection[str]) -> str:
        """Return the `searched` fields that are not neutral, in a few words for tables.

        A string is shown as it is, a flag by its field's name, a number in the format of `axis`.
        """
        parts = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in searched and value != field.default:
                parts.append(_words(field, value))
        return " ".join(filter(None, parts))

    def usual(self) -> tuple[Self, ...]:
        """Return the settings recommended in practice; the search tries them before it samples."""
        return ()


def _words(field: "dataclasses.Field[Any]", value: Any) -> str:
    """Format the value of a searched field for `short`."""
    pattern, name = field.metadata["short"], field.name.replace("_", " ")
    if pattern == "":
        return ""
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if isinstance(value, str):
        return value
    return (pattern or f"{name} {{value}}").format(value=f"{value:.4g}")
