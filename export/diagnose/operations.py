"""Multiply-accumulates and parameters of a normalised graph, counted from its shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.autodiff.backward import depends_on
from portable_cam.export.autodiff.rules import has_no_gradient
from portable_cam.export.graph.operators import FLOATS, ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of, known_dims, reads

#: Operators that multiply and accumulate much, but are not counted: the estimate names them.
_UNCOUNTED = frozenset({"Attention", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan"})


#: Inputs that are no parameters, although their content is floating point: bounds, scales, statistics.
_NO_PARAMETER = {
    "BatchNormalization": {3, 4}, "Clip": {1, 2}, "DequantizeLinear": {1, 2}, "Pad": {2}, "QuantizeLinear": {1, 2},
    "Resize": {1, 2}, "Range": {0, 1, 2},
}  # fmt: skip


_INTEGER_PARAMETER = {"ConvInteger": {1}, "DequantizeLinear": {0}, "MatMulInteger": {0, 1}}


def macs_of(node: ir.Node) -> int | None:
    """The multiply-accumulates of a node; None if they are not known. 0 for operators that hardly multiply."""
    if node.domain not in ONNX_DOMAINS:
        return None
    if node.op_type in _UNCOUNTED:
        return None
    if node.op_type not in {"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger"}:
        return 0
    if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
        return None
    left, right, out = (static_dims(v) for v in (node.inputs[0], node.inputs[1], node.outputs[0]))
    if not left or not right or out is None:
        return None
    if node.op_type in {"Conv", "ConvInteger"}:
        return math.prod(out) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    depth, other = left[-1], right[-2] if len(right) > 1 else right[0]
    if node.op_type == "Gemm":
        depth = left[0] if node.attributes.get_int("transA", 0) else left[-1]
        other = right[-1] if node.attributes.get_int("transB", 0) else right[0]
    return math.prod(out) * depth if depth == other else None  # a size assumed for the image may not fit


def count_parameters(graph: ir.Graph) -> int:
    """The elements of the weights of a normalised graph, quantised ones included; scales, zero points, bounds, running
    statistics and single numbers are none."""
    return sum(
        value.const_value.size
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.shape.rank() > 0 and _is_parameter(value)
    )


def path_between(nodes: Sequence[ir.Node], sources: Sequence[ir.Value], ends: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes that a gradient passes from the ``ends`` back to the ``sources``, in the graph's order."""
    affected = depends_on(nodes, sources)
    behind = set(ends)
    path: list[ir.Node] = []
    for node in reversed(nodes):
        before = [value for value in reads(node) if value in affected]  # none: it made a source
        if before and any(o in behind for o in node.outputs) and not has_no_gradient(node):
            path.append(node)
            behind.update(before)
    return path[::-1]


def _is_parameter(value: ir.Value) -> bool:
    if value.const_value is not None and value.const_value.dtype in FLOATS:
        return any(use.idx not in _NO_PARAMETER.get(use.node.op_type, ()) for use in value.uses())
    return any(use.idx in _INTEGER_PARAMETER.get(use.node.op_type, ()) for use in value.uses())


def static_dims(value: ir.Value) -> list[int] | None:
    """The whole shape; None if any of it is open."""
    array = constant_of(value) if value.shape is None else None
    dims = known_dims(value) if array is None else list(array.shape)
    return None if dims is None or None in dims else [d for d in dims if d is not None]
