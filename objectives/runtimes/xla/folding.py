"""Weights of a traced program in the form in which its products read them.

Linear layers transpose their weights, and normalisations compute factors from theirs, at every run.
XLA does not keep such results where weights are arguments, and computes them slowly, element by
element, where weights are constants: loading eight layers of 4096 x 4096 took 57 s.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors that a program reads besides its inputs."""

    tensors: dict[str, Tensor]
    """Contiguous, by name."""
    names: dict[str, str]
    """Name of the tensor by that of the node whose value it is."""


def folded(program: ExportedProgram) -> Weights:
    """Compute what depends on weights alone and takes no more memory than they do."""
    values = _placed(program)
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "call_function" and (value := _value(node, values)) is not None:
                values[node] = value
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    known: dict[tuple[Any, ...], str] = {}
    parameters = {
        spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target
    }
    for node, value in values.items():
        if all(user in values for user in node.users):
            continue  # only what is folded reads it, or nothing does
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        name = known.setdefault(place, parameters.get(node.name, node.name).removeprefix("model."))
        names[node.name] = name
        tensors.setdefault(name, value.detach().clone(memory_format=torch.contiguous_format))
    return Weights(tensors=tensors, names=names)


def needed(graph: fx.Graph, known: set[str]) -> set[str]:
    """Return the names of the nodes that the outputs need if the values of `known` are known."""
    (output,) = graph.find_nodes(op="output")
    found: set[str] = set()
    waiting: list[fx.Node] = [output]
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            waiting += [] if node.name in known else node.all_input_nodes
    return found


def _placed(program: ExportedProgram) -> dict[fx.Node, Tensor]:
    """Return the tensors of the placeholders that are no inputs."""
    targets = {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.kind is not InputKind.USER_INPUT and spec.target
    }
    known = {**program.state_dict, **program.constants}
    return {
        node: known[targets[node.name]]
        for node in program.graph.find_nodes(op="placeholder")
        if node.name in targets and isinstance(known.get(targets[node.name]), Tensor)
    }


def _value(node: fx.Node, values: dict[fx.Node, Tensor]) -> Tensor | None:
    """Return the value of a node that depends on known tensors alone; None for any other."""
    read = node.all_input_nodes
    if not read or any(n not in values for n in read) or not callable(node.target):
        return None
    shape = node.meta["val"]
    if not isinstance(shape, Tensor) or shape.numel() > sum(values[n].numel() for n in read):
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
    value: Tensor = node.target(*args, **kwargs)
    return value
