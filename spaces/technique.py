"""What a technique is: a family of model changes whose instance is one setting."""

import abc
import dataclasses
import enum
from collections.abc import Collection
from typing import Any, ClassVar, Self

from torch import nn

from spaces.outputs import Outputs
from spaces.plan import Plan
from spaces.task import Task
from spaces.tools import Prepared, Tools


class Scope(enum.StrEnum):
    """How far a reason reaches beyond the point at which it was met."""

    POINT = "point"
    TECHNIQUE = "technique"
    """Any setting of the technique that changes this model, however strong."""
    RUNTIME = "runtime"
    """Whatever is made of this model, in the runtime."""


class Infeasible(Exception):
    """A point that cannot be built or executed; the message is the reason, one sentence."""

    def __init__(self, reason: str, *, scope: Scope = Scope.POINT) -> None:
        super().__init__(reason)
        self.scope = scope


class Left(UserWarning):
    """What a technique was asked to change and left as it was; the message is whole sentences.

    Unlike other warnings it is stored with the candidate and told wherever that is shown.
    """


class Stage(enum.IntEnum):
    """The order in which settings take effect."""

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
    """Order within the stage: the coarsest edit first, or the next one undoes what was fitted."""

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the model to use from here on; `model` is a copy and may be edited in place.

        Only techniques of stage SHAPE override this. Raises Infeasible with a reason when the
        model cannot be edited.
        """
        del task
        return model

    def plan(self, plan: Plan) -> Plan:
        """Return `plan` with what this setting asks of training, encoding and deployment."""
        return plan

    def prepare(self, model: nn.Module, plan: Plan, tools: Tools) -> Prepared:
        """Return `plan` settled in view of `model`, whose shape is that of the candidate.

        Called once all shapes are edited and before anything is trained or exported. `model` is
        not to be edited.
        """
        del model, tools
        return Prepared(plan=plan)

    def canonical(self) -> Self:
        """Return the simplest setting that builds the same candidate (dead dimensions neutral)."""
        return self

    def settled(self, plan: Plan, outputs: Outputs) -> Self:
        """Return the simplest setting that builds the same candidate where all ask for `plan`.

        `canonical` knows this setting alone; here dimensions become neutral that are dead because
        of what others ask, such as anything about training where nothing is trained, or because
        of what the task's model puts out.
        """
        del plan, outputs
        return self

    def short(self, searched: Collection[str]) -> str:
        """Return the `searched` fields that change something, in a few words for tables and lines.

        A text is told as it is, a flag by its field's name, a number as `axis` says.
        """
        parts = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in searched and value != field.default:
                parts.append(_words(field, value))
        return " ".join(filter(None, parts))

    def usual(self) -> tuple[Self, ...]:
        """Return settings that practice recommends; the search tries them before it samples."""
        return ()


def _words(field: "dataclasses.Field[Any]", value: Any) -> str:
    """Return the value of a searched field in short."""
    pattern, name = field.metadata["short"], field.name.replace("_", " ")
    if pattern == "":
        return ""
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if isinstance(value, str):
        return value
    return (pattern or f"{name} {{value}}").format(value=f"{value:.4g}")
