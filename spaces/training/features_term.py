"""Features: what a student's inner layers put out, compared with its teacher's."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.modules import Convolution, call, evaluating
from spaces.task import Inputs
from spaces.technique import Infeasible
from spaces.training.relations_term import comparable, distance, projections

RIDGE = 1e-3
"""Damping of the least squares that projections start from, as a share of the mean variance."""


class Tap:
    """What watched modules put out in the last forward pass."""

    def __init__(self) -> None:
        self._seen: dict[str, Tensor] = {}

    def keep(self, name: str, output: Any) -> None:
        """Keep the output of a module, the first of several."""
        tensor = _first(output)
        if tensor is not None:
            self._seen[name] = tensor

    def take(self) -> dict[str, Tensor]:
        """Return the outputs by name and forget them, so that no pass lives on in memory."""
        seen, self._seen = self._seen, {}
        return seen


@contextlib.contextmanager
def tapped(model: nn.Module, names: Sequence[str]) -> Iterator[Tap]:
    """Watch what the named modules of `model` put out inside the block."""
    tap = Tap()
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: tap.keep(name, output)
        )
        for name in names
    ]
    try:
        yield tap
    finally:
        for handle in handles:
            handle.remove()


class Match(nn.Module):
    """The features' term: the mean over the layers of their relative squared distance.

    A layer's distance is the mean square of (projected student - teacher), divided by the mean
    square of the teacher's features on one batch, so that layers count alike and the weight of
    the term does not depend on their scale. Added is the mean divergence of tokens' relations,
    where there are any.
    """

    def __init__(self, layers: Mapping[str, "_Layer"], related: Sequence[str] = ()) -> None:
        super().__init__()
        self.names = (*layers, *related)
        self._compared, self._related = tuple(layers), tuple(related)
        self._layers = dict(layers)
        changed = {n: layer for n, layer in layers.items() if layer.axis is not None}
        self._index = {name: str(i) for i, name in enumerate(changed)}
        self.projections = nn.ModuleDict(
            {self._index[n]: nn.Linear(layer.inputs, layer.outputs) for n, layer in changed.items()}
        )

    def forward(self, mine: Mapping[str, Tensor], taught: Mapping[str, Tensor]) -> Tensor:
        """Return the term, a scalar, of features (student's, teacher's) by name."""
        terms = [
            F.mse_loss(self.project(name, mine[name].float()), taught[name].float())
            / self._layers[name].scale
            for name in self._compared
        ]
        term = torch.stack(terms).mean()
        if self._related:
            apart = [distance(mine[name], taught[name]) for name in self._related]
            term = term + torch.stack(apart).mean()
        return term

    def project(self, name: str, features: Tensor) -> Tensor:
        """Return a student's features in the width of its teacher's."""
        axis = self._layers[name].axis
        if axis is None:
            return features
        projection = self.projections[self._index[name]]
        widened: Tensor = projection(features.movedim(axis, -1)).movedim(-1, axis)
        return widened

    @torch.no_grad()
    def fit(self, mine: Mapping[str, Tensor], taught: Mapping[str, Tensor]) -> None:
        """Start every projection from the least squares solution on these features."""
        for name, index in self._index.items():
            layer, projection = self._layers[name], self.projections[index]
            assert isinstance(projection, nn.Linear)
            assert layer.axis is not None
            solution = _least_squares(
                _table(mine[name], layer.axis), _table(taught[name], layer.axis)
            )
            projection.weight.copy_(solution[:-1].T)
            projection.bias.copy_(solution[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layer:
    """How the features of one layer are compared."""

    axis: int | None
    """Dimension in which the widths differ; None where they are equal."""
    inputs: int = 0
    outputs: int = 0
    scale: float = 1.0
    """Mean square of the teacher's features."""


def matched(
    student: nn.Module, teacher: nn.Module, inputs: Inputs, limit: int, *, relations: bool = False
) -> Match:
    """Return how features of the two are compared, projections fitted on a batch of `inputs`.

    With `relations` also how tokens relate in the attention layers that both have.

    Layers are those of `candidates` whose outputs have the same shape in all dimensions but at
    most one. With a `limit` above 0 that many are kept, evenly spread, the last among them.
    Raises Infeasible when none is left.
    """
    names = candidates(student, teacher)
    inner = _inner(student, teacher) if relations else []
    with evaluating(student), torch.no_grad():
        watched = [*names, *(n for n in inner if n not in names)]
        mine, taught = _seen(student, watched, inputs), _seen(teacher, watched, inputs)
    layers = {
        name: layer
        for name in names
        if name in mine and name in taught and (layer := _layer(mine[name], taught[name]))
    }
    if not layers:
        raise Infeasible(
            "distill.features finds no inner layer whose output can be compared with the "
            "uncompressed model's; set its weight to 0"
        )
    if 0 < limit < len(layers):
        ordered = list(layers)
        kept = {ordered[(i + 1) * len(ordered) // limit - 1] for i in range(limit)}
        layers = {name: layers[name] for name in ordered if name in kept}
    related = [n for n in inner if n in mine and n in taught and comparable(mine[n], taught[n])]
    match = Match(layers, related).to(next(iter(mine.values())).device)
    match.fit(mine, taught)
    return match


def _inner(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Return the projections of attention layers that both have."""
    own = dict(student.named_modules())
    return [name for name in projections(teacher, _attentions(teacher)) if name in own]


def candidates(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Return the names of the layers to be compared, in the order of the teacher's modules.

    They are blocks (`blocks`) and attention layers, or where there is neither all linear and
    convolution layers but the last. Left out is what the student lacks: a module that is gone, or
    that has lost all the parameters that the teacher's has, as a dropped block.
    """
    names = sorted({*blocks(teacher), *_attentions(teacher)}, key=_order(teacher))
    if not names:
        kinds = (nn.Linear, Convolution)
        names = [n for n, module in teacher.named_modules() if n and isinstance(module, kinds)][:-1]
    own = dict(student.named_modules())
    theirs = dict(teacher.named_modules())
    return [n for n in names if n in own and (_weighty(own[n]) or not _weighty(theirs[n]))]


def blocks(model: nn.Module) -> list[str]:
    """Return the names of the outermost blocks.

    A block is a child of a ModuleList or Sequential and has children and parameters itself.
    """
    found: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not _inside(name, found):
            prefix = f"{name}." if name else ""
            found += [
                prefix + own
                for own, child in module.named_children()
                if next(child.children(), None) is not None and _weighty(child)
            ]
    return found


def _attentions(model: nn.Module) -> list[str]:
    """Return the names of the outermost modules whose class is some kind of attention."""
    found: list[str] = []
    for name, module in model.named_modules():
        if name and "attention" in type(module).__name__.lower() and not _inside(name, found):
            found.append(name)
    return found


def _inside(name: str, others: Sequence[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in others)


def _order(model: nn.Module) -> Any:
    place = {name: i for i, (name, _) in enumerate(model.named_modules())}
    return place.__getitem__


def _weighty(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _seen(model: nn.Module, names: Sequence[str], inputs: Inputs) -> dict[str, Tensor]:
    with tapped(model, names) as tap:
        call(model, inputs)
    return tap.take()


def _layer(mine: Tensor, taught: Tensor) -> _Layer | None:
    """Return how two outputs are compared, None if their shapes have nothing in common."""
    scale = float(taught.float().square().mean())
    if mine.dim() != taught.dim() or scale == 0:
        return None
    pairs = enumerate(zip(mine.shape, taught.shape, strict=True))
    different = [(axis, a, b) for axis, (a, b) in pairs if a != b]
    if not different:
        return _Layer(axis=None, scale=scale)
    axis, inputs, outputs = different[0]
    if len(different) > 1 or axis == 0:
        return None
    return _Layer(axis=axis, inputs=inputs, outputs=outputs, scale=scale)


def _table(features: Tensor, axis: int) -> Tensor:
    """Return features as (places, width) in double precision."""
    return features.double().movedim(axis, -1).flatten(0, -2)


def _least_squares(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return (inputs + 1, outputs): slopes and, last, intercepts that map inputs to outputs."""
    ones = torch.ones(len(inputs), 1, dtype=inputs.dtype, device=inputs.device)
    design = torch.cat([inputs, ones], 1)
    gram = design.T @ design
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    solution: Tensor = torch.linalg.solve(gram, design.T @ outputs)
    return solution


def _first(output: Any) -> Tensor | None:
    """Return the first floating-point tensor of an output: a tensor, a tuple or a mapping."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, tuple | list) and output:
        return _first(output[0])
    return None
