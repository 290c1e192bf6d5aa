"""Keeps ONNX Runtime from an optimisation of its own that breaks int8 models at opset 21."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.builder import ONNX_DOMAINS

_MOVED_BEFORE = frozenset({"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


def shield_int8(graph: ir.Graph) -> None:
    """Put a copy between DequantizeLinear of int8 and an operator that ONNX Runtime would move before it.

    Where nothing quantises the result again, ONNX Runtime (1.32, x86) writes Reshape -> QuantizeLinear ->
    DequantizeLinear for DequantizeLinear -> Reshape, states the type int8 as an attribute, then turns the zero points
    to uint8 but not the attribute, and refuses its own graph. Max of one tensor is a copy that it leaves alone.
    """
    for node in list(graph):
        if node.op_type != "DequantizeLinear" or node.domain not in ONNX_DOMAINS:
            continue
        integers, out = node.inputs[0], node.outputs[0]
        if integers is None or integers.dtype != ir.DataType.INT8:
            continue
        if ir.convenience.get_const_tensor(integers) is not None:
            continue
        readers = [use for use in out.uses() if use.node.graph is graph and use.idx == 0 and _is_moved(use.node)]
        if not readers:
            continue
        copy = ir.node("Max", [out], name=f"{node.name}/copy")
        copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = f"{out.name}/copy", out.type, out.shape
        graph.insert_after(node, copy)
        for use in readers:
            use.node.replace_input_with(use.idx, copy.outputs[0])


def _is_moved(node: ir.Node) -> bool:
    if node.op_type not in _MOVED_BEFORE or node.domain not in ONNX_DOMAINS:
        return False
    uses = list(node.outputs[0].uses())
    return not uses or any(use.node.op_type != "QuantizeLinear" for use in uses) or len(node.outputs) > 1
