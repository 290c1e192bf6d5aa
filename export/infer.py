"""Shapes of newly written nodes: rules need ranks, and what a target writes has none of its own."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from portable_cam.export.builder import OPSET


def infer_shapes(nodes: Iterable[ir.Node]) -> None:
    """Fill in shapes and types of the outputs of these nodes, which follow each other, as far as ONNX infers them."""
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
    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info}
    for value in made:
        if value.name not in inferred or not inferred[value.name].type.HasField("tensor_type"):
            continue
        kind = inferred[value.name].type.tensor_type
        if value.type is None and kind.elem_type:
            value.type = ir.TensorType(ir.DataType(kind.elem_type))
        if value.shape is None and kind.HasField("shape"):
            dims = kind.shape.dim
            value.shape = ir.Shape([d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims])


def _is_small(value: ir.Value) -> bool:
    """Whether the content may be a shape or axes; weights are not copied."""
    return value.const_value is not None and value.const_value.size <= 64
