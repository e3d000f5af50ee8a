"""The feature term of the loss: outputs of inner layers, compared with the teacher's."""

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
"""Damping of the least squares that initialise projections, as a share of the mean variance."""


class Tap:
    """The outputs of selected modules in the last forward pass."""

    def __init__(self) -> None:
        self._outputs: dict[str, Tensor] = {}

    def record(self, name: str, output: Any) -> None:
        """Record the output of a module; of several tensors, the first."""
        tensor = _first(output)
        if tensor is not None:
            self._outputs[name] = tensor

    def take(self) -> dict[str, Tensor]:
        """Return the outputs by name and forget them, so that no pass stays in memory."""
        outputs, self._outputs = self._outputs, {}
        return outputs


@contextlib.contextmanager
def tapped(model: nn.Module, names: Sequence[str]) -> Iterator[Tap]:
    """Record the outputs of the named modules of `model` inside the block."""
    tap = Tap()
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: tap.record(name, output)
        )
        for name in names
    ]
    try:
        yield tap
    finally:
        for handle in handles:
            handle.remove()


class Match(nn.Module):
    """The feature term: the mean over the layers of their relative squared distance.

    A layer's distance is the mean square of (projected student - teacher), divided by the mean
    square of the teacher's features on one batch, so that layers have equal weight and the weight
    of the term does not depend on their scale. The mean divergence of tokens' relations is added,
    if any are compared.
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

    def forward(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """Return the term, a scalar, of the student's and the teacher's features by name."""
        terms = [
            F.mse_loss(self.project(name, student[name].float()), teacher[name].float())
            / self._layers[name].scale
            for name in self._compared
        ]
        term = torch.stack(terms).mean()
        if self._related:
            divergences = [distance(student[name], teacher[name]) for name in self._related]
            term = term + torch.stack(divergences).mean()
        return term

    def project(self, name: str, features: Tensor) -> Tensor:
        """Return a layer's features of the student, projected to the width of the teacher's."""
        axis = self._layers[name].axis
        if axis is None:
            return features
        projection = self.projections[self._index[name]]
        widened: Tensor = projection(features.movedim(axis, -1)).movedim(-1, axis)
        return widened

    @torch.no_grad()
    def fit(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> None:
        """Set every projection to the least squares solution on these features."""
        for name, index in self._index.items():
            layer, projection = self._layers[name], self.projections[index]
            assert isinstance(projection, nn.Linear)
            assert layer.axis is not None
            solution = _least_squares(
                _table(student[name], layer.axis), _table(teacher[name], layer.axis)
            )
            projection.weight.copy_(solution[:-1].T)
            projection.bias.copy_(solution[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layer:
    """The comparison of one layer's features."""

    axis: int | None
    """Dimension in which the widths differ; None if they are equal."""
    inputs: int = 0
    outputs: int = 0
    scale: float = 1.0
    """Mean square of the teacher's features."""


def matched(
    student: nn.Module, teacher: nn.Module, inputs: Inputs, limit: int, *, relations: bool = False
) -> Match:
    """Return the feature term of two models, with projections fitted on a batch of `inputs`.

    With `relations`, the term also compares tokens' relations in the attention layers that both
    models have. Its layers are those of `candidates` whose outputs differ in at most one dimension.
    With a `limit` above 0, that many are used, evenly spaced and including the last. Raises
    Infeasible if no layer can be compared.
    """
    names = candidates(student, teacher)
    inner = _common_projections(student, teacher) if relations else []
    with evaluating(student), torch.no_grad():
        recorded = [*names, *(n for n in inner if n not in names)]
        outputs, teacher_outputs = (
            _features(student, recorded, inputs),
            _features(teacher, recorded, inputs),
        )
    layers = {
        name: layer
        for name in names
        if name in outputs
        and name in teacher_outputs
        and (layer := _layer(outputs[name], teacher_outputs[name]))
    }
    if not layers:
        raise Infeasible(
            "distill.features finds no inner layer whose output can be compared with the "
            "uncompressed model's; set its weight to 0"
        )
    if 0 < limit < len(layers):
        ordered = list(layers)
        selected = {ordered[(i + 1) * len(ordered) // limit - 1] for i in range(limit)}
        layers = {name: layers[name] for name in ordered if name in selected}
    related = [
        n
        for n in inner
        if n in outputs and n in teacher_outputs and comparable(outputs[n], teacher_outputs[n])
    ]
    match = Match(layers, related).to(next(iter(outputs.values())).device)
    match.fit(outputs, teacher_outputs)
    return match


def _common_projections(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Return the names of the attention layers' projections that both models have."""
    modules = dict(student.named_modules())
    return [name for name in projections(teacher, _attentions(teacher)) if name in modules]


def candidates(student: nn.Module, teacher: nn.Module) -> list[str]:
    """Return the names of the layers to be compared, in the order of the teacher's modules.

    They are blocks (`blocks`) and attention layers, or, in models without either, all linear and
    convolution layers except the last. Modules that the student lacks are left out, and so are
    modules in which it has no parameters but the teacher has some, such as dropped blocks.
    """
    names = sorted({*blocks(teacher), *_attentions(teacher)}, key=_order(teacher))
    if not names:
        kinds = (nn.Linear, Convolution)
        names = [n for n, module in teacher.named_modules() if n and isinstance(module, kinds)][:-1]
    modules, teacher_modules = dict(student.named_modules()), dict(teacher.named_modules())
    return [
        name
        for name in names
        if name in modules
        and (_has_parameters(modules[name]) or not _has_parameters(teacher_modules[name]))
    ]


def blocks(model: nn.Module) -> list[str]:
    """Return the names of the outermost blocks.

    A block is a child of a ModuleList or Sequential that has children and parameters itself.
    """
    names: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not _inside(name, names):
            prefix = f"{name}." if name else ""
            names += [
                prefix + child_name
                for child_name, child in module.named_children()
                if next(child.children(), None) is not None and _has_parameters(child)
            ]
    return names


def _attentions(model: nn.Module) -> list[str]:
    """Return the names of the outermost modules whose class has "attention" in its name."""
    names: list[str] = []
    for name, module in model.named_modules():
        if name and "attention" in type(module).__name__.lower() and not _inside(name, names):
            names.append(name)
    return names


def _inside(name: str, ancestors: Sequence[str]) -> bool:
    return any(name == ancestor or name.startswith(f"{ancestor}.") for ancestor in ancestors)


def _order(model: nn.Module) -> Any:
    place = {name: i for i, (name, _) in enumerate(model.named_modules())}
    return place.__getitem__


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _features(model: nn.Module, names: Sequence[str], inputs: Inputs) -> dict[str, Tensor]:
    with tapped(model, names) as tap:
        call(model, inputs)
    return tap.take()


def _layer(student: Tensor, teacher: Tensor) -> _Layer | None:
    """Return the comparison of two outputs, None if they cannot be compared."""
    scale = float(teacher.float().square().mean())
    if student.dim() != teacher.dim() or scale == 0:
        return None
    pairs = enumerate(zip(student.shape, teacher.shape, strict=True))
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
