"""Unrolls loops of a known number of steps."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import PassResult

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.subgraph import copy_nodes, never_ends, replace_node
from portable_cam.export.graph.values import constant_of

#: How many nodes all loops of a model may become. A loop beyond that is left as it is, and differentiated as a loop, so
#: that no number of steps that a hostile file names, nor loops in loops, can blow up the graph.
LARGEST = 8192
_UNROLLED = "portable_cam.unrolled"


def unroll_loops(model: ir.Model) -> PassResult:
    """Unroll the loops whose number of steps is a constant, and that no condition can end before, in place."""
    builder: Builder | None = None
    for node in list(model.graph):
        steps = _steps(node)
        if steps is None or not may_unroll(model, steps * count_nodes(node.attributes["body"].as_graph())):
            continue
        builder = builder or Builder(model.graph, "step")
        _unroll(builder, node, steps)
    return PassResult(model, builder is not None)


def _steps(node: ir.Node) -> int | None:
    """How many steps a loop takes, if that is known before running."""
    if node.op_type != "Loop" or node.domain not in ONNX_DOMAINS:
        return None
    limit, going = constant_of(node.inputs[0]), constant_of(node.inputs[1])
    if limit is None or (node.inputs[1] is not None and (going is None or not going.all())):
        return None
    body = node.attributes["body"].as_graph()
    steps = int(limit.reshape(-1)[0])
    return steps if steps > 0 and never_ends(body) else None


def count_nodes(graph: ir.Graph) -> int:
    """The nodes of a graph and its subgraphs, at least 1."""
    return max(1, sum(1 for _ in ir.traversal.RecursiveGraphIterator(graph)))


def may_unroll(model: ir.Model, nodes: int) -> bool:
    """Whether a loop may still become as many nodes; if so they count towards the model's limit."""
    total = int(model.meta.get(_UNROLLED, 0)) + nodes
    if total > LARGEST:
        return False
    model.meta[_UNROLLED] = total
    return True


def _unroll(builder: Builder, node: ir.Node, steps: int) -> None:
    inner, body = builder.nested(), node.attributes["body"].as_graph()
    number, going, *state_inputs = body.inputs
    states = [value for value in node.inputs[2:] if value is not None]
    rows: list[list[ir.Value]] = []
    for step in range(steps):
        values = {number: inner.ints(step), going: inner.constant(True, ir.DataType.BOOL)}
        values.update(zip(state_inputs, states, strict=True))
        copy_nodes(inner, body, values, f"/{step}")
        ends = [values.get(output, output) for output in body.outputs[1:]]
        states = ends[: len(states)]
        rows.append(ends[len(states) :])
    collected = [
        inner.op("Concat", *(inner.op("Unsqueeze", row, inner.ints([0])) for row in result), axis=0)
        for result in zip(*rows, strict=True)
    ]
    replace_node(inner, node, [*states, *collected])
