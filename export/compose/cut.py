# SPDX-License-Identifier: Apache-2.0
"""Cuts a model in two at a tensor, so that what lies behind it can be run many times and what lies before it once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as passes

from portable_cam.errors import LayerError
from portable_cam.export.graph.values import reads
from portable_cam.export.read.load import untied


@dataclass(frozen=True)
class Halves:
    """The two parts of a model.

    Attributes:
        front: From the inputs to the tensor, and to what else the back reads of the front.
        back: From these to the outputs.
        rest: The names of what the back reads beside the tensor: outputs of the front, or inputs of the model.
    """

    front: ir.Model
    back: ir.Model
    rest: tuple[str, ...]


def cut(model: ir.Model, at: str, inputs: Collection[str], outputs: Collection[str]) -> Halves:
    """A model cut at a tensor; the weights are shared.

    Args:
        model: Left as it is.
        at: The tensor.
        inputs: Those inputs that the front is for, as the image; the others are the back's.
        outputs: Those outputs that the back gives.

    Raises:
        LayerError: The model has no such tensor, or the outputs do not depend on it.
    """
    front, back = untied(model.clone()), untied(model.clone())
    graph = back.graph
    value = _named(graph, at)
    nodes = list(graph)
    given = [v for v in graph.inputs if v.name in inputs]
    of_image, of_layer = _reached(nodes, given), _reached(nodes, [value])
    results = [v for v in graph.outputs if v.name in outputs]
    if not set(results) & of_layer:
        raise LayerError(f"the outputs {', '.join(sorted(outputs))} do not depend on '{at}': choose another layer")
    graph.outputs.clear()
    graph.outputs.extend(results)
    passes.RemoveUnusedNodesPass()(back)
    behind = [node for node in graph if set(node.outputs) & of_layer and node is not value.producer()]
    needed = {v for node in behind for v in reads(node)}
    boundary = [v for v in _values(graph) if v in needed and v in of_image and v not in of_layer and v is not value]
    names = [str(v.name) for v in boundary]
    for old in (value, *boundary):
        if not old.is_graph_input():
            _make_input(graph, old)
    for old in [v for v in graph.inputs if v.name in inputs and v not in boundary]:
        graph.inputs.remove(old)
    passes.RemoveUnusedNodesPass()(back)
    front.graph.outputs.clear()
    front.graph.outputs.extend(_named(front.graph, name) for name in dict.fromkeys([at, *names]) if name not in inputs)
    for other in [v for v in front.graph.inputs if v.name not in inputs]:
        if not any(True for _ in other.uses()):
            front.graph.inputs.remove(other)
    passes.RemoveUnusedNodesPass()(front)
    for other in [v for v in front.graph.inputs if v.name not in inputs and not any(True for _ in v.uses())]:
        front.graph.inputs.remove(other)
    return Halves(front, back, tuple(names))


def _named(graph: ir.Graph, name: str) -> ir.Value:
    found = ir.convenience.create_value_mapping(graph, include_subgraphs=False).get(name)
    if found is None:
        raise LayerError(f"the model has no tensor '{name}' to be cut at")
    return found


def _reached(nodes: Iterable[ir.Node], sources: Collection[ir.Value]) -> set[ir.Value]:
    """What is computed from the sources, whatever operators do it."""
    found = set(sources)
    for node in nodes:
        if any(value in found for value in reads(node)):
            found.update(node.outputs)
    return found


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(output for node in graph for output in node.outputs)]


def _make_input(graph: ir.Graph, old: ir.Value) -> None:
    """An input of the same name in place of what computes a value."""
    new = ir.Value(name=old.name, type=old.type, shape=old.shape)
    old.name = f"{old.name}/cut"
    ir.convenience.replace_all_uses_with(old, new)
    graph.inputs.append(new)
