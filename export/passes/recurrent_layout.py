"""LSTM, GRU and RNN of layout 1 (batch first) in layout 0 (steps first), which has kernels."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import PassResult

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.subgraph import replace_node

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_X, _INITIAL_H, _INITIAL_C = 0, 5, 6


def make_time_major(model: ir.Model) -> PassResult:
    """Transpose the inputs and outputs of each recurrent node of layout 1, in place."""
    builder: Builder | None = None
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.op_type not in _RECURRENT or node.domain not in ONNX_DOMAINS:
            continue
        if node.attributes.get_int("layout", 0) == 1:
            builder = builder or Builder(model.graph, "time_major")
            _replace(builder, node)
    return PassResult(model, builder is not None)


def _replace(builder: Builder, node: ir.Node) -> None:
    b = builder.nested()
    inputs = list(node.inputs)
    for i in (_X, _INITIAL_H, _INITIAL_C):
        if i < len(inputs) and (value := inputs[i]) is not None:
            inputs[i] = b.op("Transpose", value, perm=[1, 0, 2])
    attributes = {name: attribute for name, attribute in node.attributes.items() if name != "layout"}
    new = ir.node(node.op_type, inputs, attributes, num_outputs=len(node.outputs), name=f"{node.name}/time_major")
    for old, output in zip(node.outputs, new.outputs, strict=True):
        output.name, output.type = b.fresh(node.op_type), old.type
    b.graph.append(new)
    # Y (T, D, N, H) -> (N, T, D, H), the last states (D, N, H) -> (N, D, H)
    perms = [[2, 0, 1, 3], [1, 0, 2], [1, 0, 2]]
    replace_node(b, node, [b.op("Transpose", y, perm=perm) for y, perm in zip(new.outputs, perms, strict=False)])
