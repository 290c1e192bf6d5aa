"""Loops of a known number of steps, written out."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.subgraph import copy_nodes, take_place
from portable_cam.export.graph.values import constant_of

#: How many nodes all loops of a model may become. A loop beyond that is left as it is, and differentiated as a loop, so
#: that no number of steps that a hostile file names, nor loops in loops, can blow up the graph.
LARGEST = 8192
_WRITTEN = "portable_cam.written_out"


def unroll(model: ir.Model) -> bool:
    """Write out the loops whose number of steps is a constant, and that no condition can end before."""
    builder, found = None, False
    for node in list(model.graph):
        steps = _steps(node)
        if steps is None or not may_write(model, steps * count_nodes(node.attributes["body"].as_graph())):
            continue
        builder = builder or Builder(model.graph, "step")
        _write_out(builder, node, steps)
        found = True
    return found


def _steps(node: ir.Node) -> int | None:
    """How many steps a loop takes, if that is known and few enough to write out."""
    if node.op_type != "Loop" or node.domain not in {"", "ai.onnx"}:
        return None
    limit, going = constant_of(node.inputs[0]), constant_of(node.inputs[1])
    if limit is None or (node.inputs[1] is not None and (going is None or not going.all())):
        return None
    body = node.attributes["body"].as_graph()
    steps = int(limit.reshape(-1)[0])
    return steps if steps > 0 and _never_ends(body) else None


def count_nodes(graph: ir.Graph) -> int:
    """The nodes of a graph and its subgraphs, at least 1."""
    return max(1, sum(1 for _ in ir.traversal.RecursiveGraphIterator(graph)))


def may_write(model: ir.Model, nodes: int) -> bool:
    """Whether as many nodes may still be written out; if so they count."""
    written = int(model.meta.get(_WRITTEN, 0)) + nodes
    if written > LARGEST:
        return False
    model.meta[_WRITTEN] = written
    return True


def _never_ends(body: ir.Graph) -> bool:
    """Whether the condition that a step gives is the one that it got, or constantly true."""
    value = body.outputs[0]
    while (maker := value.producer()) is not None and maker.op_type == "Identity" and maker.inputs[0] is not None:
        value = maker.inputs[0]
    content = constant_of(value)
    return value is body.inputs[1] or (content is not None and bool(content.all()))


def _write_out(builder: Builder, node: ir.Node, steps: int) -> None:
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
    take_place(inner, node, [*states, *collected])
