"""Infers the shapes of newly written nodes: rules need the ranks of the nodes that a target writes."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from portable_cam.export.graph.operators import OPSET
from portable_cam.export.graph.subgraph import give_shape
from portable_cam.export.graph.values import subgraphs


def infer_shapes(nodes: Iterable[ir.Node]) -> None:
    """Fill in shapes and types of the outputs of these nodes, in topological order, as far as ONNX infers them."""
    nodes = list(nodes)
    if not nodes:
        return
    made = {value for node in nodes for value in node.outputs}
    given = {v.name: v for node in nodes for v in node.inputs if v is not None and v not in made}
    constants = {v.name: v.const_value for v in given.values() if v.const_value is not None and _is_small(v)}
    graph = onnx.GraphProto(
        name="new",
        node=[ir.to_proto(node) for node in nodes],
        input=[ir.to_proto(v) for name, v in given.items() if name not in constants and v.type is not None],
        initializer=[ir.to_proto(tensor) for tensor in constants.values()],
    )
    others = {node.domain for node in nodes} - {"", "ai.onnx"}
    imports = [onnx.helper.make_opsetid("", OPSET), *(onnx.helper.make_opsetid(domain, 1) for domain in others)]
    model = onnx.ModelProto(graph=graph, ir_version=10, opset_import=imports)
    known = {
        dim.value for v in given.values() if v.shape is not None for dim in v.shape.dims if not isinstance(dim, int)
    }

    def size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
        if dim.HasField("dim_value"):
            return int(dim.dim_value)
        if not dim.dim_param or dim.dim_param in known:
            return dim.dim_param or None
        # the inference numbers new names from 0, whatever sizes elsewhere in the graph are called
        return f"{nodes[0].name}/{dim.dim_param}"

    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info}
    for value in made:
        if value.name not in inferred or not inferred[value.name].type.HasField("tensor_type"):
            continue
        kind = inferred[value.name].type.tensor_type
        if value.type is None and kind.elem_type:
            value.type = ir.TensorType(ir.DataType(kind.elem_type))
        if value.shape is None and kind.HasField("shape"):
            value.shape = ir.Shape([size(dim) for dim in kind.shape.dim])


def _is_small(value: ir.Value) -> bool:
    """Whether the content may be a shape or axes; weights are not copied."""
    return value.const_value is not None and value.const_value.size <= 64


def complete_shapes(graph: ir.Graph) -> bool:
    """Fill in what ONNX's inference leaves open in a graph: the shapes behind GroupNormalization, for which it has no
    rule, and those behind branches and loops, whose constants it does not see where these lie outside. In place;
    returns whether there were any."""
    open_nodes = {
        node
        for node in graph
        if (node.op_type in _AS_INPUT or any(subgraphs(node))) and any(o.shape is None for o in node.outputs if o.name)
    }
    waiting: list[ir.Node] = []
    for node in graph:
        if node not in open_nodes:
            waiting += [node] if any(o.shape is None or o.type is None for o in node.outputs) else []
            continue
        infer_shapes(waiting)
        waiting = []
        if node.op_type in _AS_INPUT and node.inputs[0] is not None:
            node.outputs[0].shape = node.inputs[0].shape
        elif node.op_type in _ENTER:
            _ENTER[node.op_type](node)
    if open_nodes:
        infer_shapes(waiting)
    return bool(open_nodes)


def _enter_scan(node: ir.Node) -> None:
    body = node.attributes["body"].as_graph()
    given = node.attributes.get_int("num_scan_inputs", 0)
    count = len(node.inputs) - given
    axes = list(node.attributes.get_ints("scan_input_axes", [0] * given))
    for i, (inner, outside) in enumerate(zip(body.inputs, node.inputs, strict=True)):
        if outside is not None:
            give_shape(inner, outside, fixed=True, without=() if i < count else (axes[i - count],))
    _complete_body(body)
    out_axes = list(node.attributes.get_ints("scan_output_axes", [0] * (len(node.outputs) - count)))
    for i, (output, end) in enumerate(zip(node.outputs, body.outputs, strict=True)):
        if output.shape is None and end.shape is not None:
            dims = list(end.shape.dims)
            if i >= count:
                dims.insert(out_axes[i - count] % (len(dims) + 1), ir.SymbolicDim(None))
            output.shape = ir.Shape(dims)


def _enter_loop(node: ir.Node) -> None:
    """A state may change its sizes from step to step, but hardly its rank."""
    body, count = node.attributes["body"].as_graph(), len(node.inputs) - 2
    for inner, outside in zip(body.inputs[2:], node.inputs[2:], strict=True):
        if outside is not None:
            give_shape(inner, outside, fixed=False)
    _complete_body(body)
    for i, (output, end) in enumerate(zip(node.outputs, body.outputs[1:], strict=True)):
        if output.shape is None and end.shape is not None:
            dims = list(end.shape.dims)
            output.shape = ir.Shape([None] * len(dims) if i < count else [None, *dims])


def _enter_if(node: ir.Node) -> None:
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    for branch in branches:
        _complete_body(branch)
    for output, one, other in zip(node.outputs, *(branch.outputs for branch in branches), strict=True):
        if output.shape is not None or one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
            continue
        pairs = zip(one.shape.dims, other.shape.dims, strict=True)
        output.shape = ir.Shape([a if a == b and isinstance(a, int) else None for a, b in pairs])


def _complete_body(body: ir.Graph) -> None:
    infer_shapes(body)
    complete_shapes(body)


_AS_INPUT = frozenset({"GroupNormalization"})
_ENTER = {"If": _enter_if, "Loop": _enter_loop, "Scan": _enter_scan}
