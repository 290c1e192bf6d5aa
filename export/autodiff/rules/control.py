"""If: the gradient of a node with branches is a node with branches.

The gradient of a subgraph is written into a copy of it, with the rules of its own nodes; the copy computes the tensors
inside a second time, for only a subgraph's outputs can be read from outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.graph.subgraph import copy_nodes, summed_seeds


@register("If")
def if_(v: Vjp) -> Sequence[Gradient]:
    """An If on the same condition, of both branches' gradients for what they read from outside."""
    branches = {name: _branch(v, v.node.attributes[name].as_graph()) for name in ("then_branch", "else_branch")}
    name = v.b.fresh("If")
    node = ir.node("If", [v.input(0)], branches, num_outputs=len(v.outer), name=name)
    for i, (value, output) in enumerate(zip(v.outer, node.outputs, strict=True)):
        output.name, output.type, output.shape = f"{name}_{i}", value.type, value.shape
    v.b.graph.append(node)
    return [None, *node.outputs]


def _branch(v: Vjp, branch: ir.Graph) -> ir.Graph:
    inner = v.b.nested()
    values: dict[ir.Value, ir.Value] = {}
    copies = copy_nodes(inner, branch, values)
    seeds = summed_seeds(inner, [values.get(output, output) for output in branch.outputs], v.grads)
    for value, gradient in zip(v.outer, v.inside(copies, inner, seeds, v.outer), strict=True):
        inner.graph.outputs.append(inner.op("Identity", gradient or inner.zeros_like(value)))
    return inner.graph
