"""int8 tensors between QuantizeLinear and DequantizeLinear as uint8: integers and zero points are 128 higher, the
dequantised values the same.

On x86 ONNX Runtime computes with uint8 activations only, and turns int8 into uint8 itself where a QuantizeLinear has
one reader. The gradient rules are further readers: without this the forward pass of an int8 model would become float.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import PassResult

from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of, input_of, optional_input

#: Operators that pass on every element of their first input and add none of their own.
_PASSES_ON = frozenset(
    """
    DepthToSpace Expand Flatten Gather Identity Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze
    """.split()
)


def make_unsigned(model: ir.Model) -> PassResult:
    """Turn each int8 tensor that begins and ends inside the graph into uint8, in place."""
    graph, shifted = model.graph, dict[ir.Value, ir.Value]()
    for node in list(graph):
        if (
            node.op_type != "QuantizeLinear"
            or node.domain not in ONNX_DOMAINS
            or node.outputs[0].dtype != ir.DataType.INT8
        ):
            continue
        inner, ends = _reach(node.outputs[0])
        if inner is None or any(not _has_int8_zero(n) for n in (node, *ends)):
            continue
        for n in (node, *ends):
            n.replace_input_with(2, _shifted(graph, input_of(n, 2), shifted))
        node.attributes.pop("output_dtype", None)
        for value in inner:
            value.dtype = ir.DataType.UINT8
    return PassResult(model, bool(shifted))


def _reach(start: ir.Value) -> tuple[list[ir.Value] | None, list[ir.Node]]:
    """The int8 tensors that carry the elements of ``start``, and the DequantizeLinear nodes that end them; None if one
    is an output of the graph or read by another operator."""
    inner, ends, todo = [], [], [start]
    while todo:
        value = todo.pop()
        inner.append(value)
        if value.is_graph_output():
            return None, []
        for use in value.uses():
            if use.idx != 0 or use.node.domain not in ONNX_DOMAINS or use.node.graph is not start.graph:
                return None, []
            if use.node.op_type == "DequantizeLinear":
                ends.append(use.node)
            elif use.node.op_type in _PASSES_ON:
                todo.extend(use.node.outputs)
            else:
                return None, []
    return inner, ends


def _has_int8_zero(node: ir.Node) -> bool:
    array = constant_of(optional_input(node, 2))
    return array is not None and array.dtype == np.int8


def _shifted(graph: ir.Graph, zero: ir.Value, made: dict[ir.Value, ir.Value]) -> ir.Value:
    if zero not in made:
        unsigned = (np.asarray(constant_of(zero), np.int16) + 128).astype(np.uint8)
        name = f"{zero.name}/unsigned"
        value = ir.Value(name=name, const_value=ir.tensor(unsigned, name=name))
        value.shape, value.dtype = ir.Shape(unsigned.shape), ir.DataType.UINT8
        graph.register_initializer(value)
        made[zero] = value
    return made[zero]
