"""Quantised tensors and the values they represent.

A quantised tensor q represents (q - zero point) * scale. It is made by QuantizeLinear or comes in as an image, is
passed on by operators that only move elements, and becomes float again in DequantizeLinear, Cast, MatMulInteger or
ConvInteger. **The gradient of an integer tensor is that of its dequantised value**: passing QuantizeLinear and
DequantizeLinear then changes nothing (the straight-through estimator, Bengio et al. 2013, arXiv 1308.3432).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from portable_cam.export.graph.operators import FLOATS, ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of, graph_of

#: Operators whose rules hold where their output is integers: those that make quantised tensors and their products, and
#: the sum of a product and a bias in its steps, as older quantisers write it. Any other operator on quantised integers
#: is refused by name.
_ON_INTEGERS = frozenset(
    "Add Cast CastLike ConvInteger DynamicQuantizeLinear MatMulInteger Neg QuantizeLinear Sub".split()
)

_NEVER_QUANTIZED = FLOATS | {ir.DataType.BOOL, ir.DataType.STRING, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128}


#: Operators that move or copy elements without reading their values: a quantised tensor keeps its scale.
_MOVING = frozenset(
    """
    Compress Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Pad Reshape Slice SpaceToDepth
    Split Squeeze Tile Transpose Unsqueeze
    """.split()
)


def moves(node: ir.Node) -> bool:
    """Whether a node only moves elements, so that its integers keep their scale."""
    return node.op_type in _MOVING and node.domain in ONNX_DOMAINS


def may_be_quantized(value: ir.Value) -> bool:
    """Whether a tensor's type is one that quantised values are stored in: integers, and floats of 8 bits or less."""
    return value.dtype is not None and value.dtype not in _NEVER_QUANTIZED


def holds_on_integers(node: ir.Node) -> bool:
    """Whether the rule of a node's operator holds where its outputs are quantised integers."""
    return moves(node) or (node.op_type in _ON_INTEGERS and node.domain in ONNX_DOMAINS)


def scale_of(value: ir.Value) -> ir.Value | None:
    """The scale that a quantised tensor was made with; None for an image and for a product of integers, which have
    none."""
    node = value.producer()
    while node is not None and node.domain in ONNX_DOMAINS:
        if node.op_type == "QuantizeLinear":
            return node.inputs[1]
        if node.op_type == "DynamicQuantizeLinear":
            return node.outputs[1]
        if not moves(node) or node.inputs[0] is None:
            return None
        node = node.inputs[0].producer()
    return None


def dequantized(value: ir.Value) -> ir.Value | None:
    """The dequantised value of a tensor: the output of the DequantizeLinear that reads it, or of a new one behind the
    operator that makes it; None if the scale is not known."""
    for use in value.uses():
        if use.idx == 0 and use.node.op_type == "DequantizeLinear" and use.node.domain in ONNX_DOMAINS:
            return use.node.outputs[0]
    last = maker = value.producer()
    while maker is not None and moves(maker) and maker.inputs[0] is not None:
        maker = maker.inputs[0].producer()
    if maker is None or last is None or maker.domain not in ONNX_DOMAINS:
        return None
    scale: ir.Value
    zero: ir.Value | None
    axis: dict[str, ir.Attr] = {}
    if maker.op_type == "DynamicQuantizeLinear":
        scale, zero = maker.outputs[1], maker.outputs[2]
    elif maker.op_type == "QuantizeLinear" and (given := maker.inputs[1]) is not None:
        if maker is not last and not _is_single(given):
            return None  # a scale for each channel, and the channels were moved
        scale, zero = given, maker.inputs[2] if len(maker.inputs) > 2 else None
        axis = {name: maker.attributes[name] for name in ("axis", "block_size") if name in maker.attributes}
    else:
        return None
    node = ir.node("DequantizeLinear", [value, scale, zero], axis, name=f"{value.name}/dequantized")
    out = node.outputs[0]
    out.name, out.type, out.shape = node.name, scale.type, value.shape
    graph_of(last).insert_after(last, node)
    return out


def input_quantization(image: ir.Value) -> tuple[float, int] | None:
    """Scale and zero point of an integer input, by the DequantizeLinear that reads it; None if there is none."""
    todo = [image]
    while todo:
        value = todo.pop()
        for use in value.uses():
            node = use.node
            if node.op_type == "DequantizeLinear" and node.domain in ONNX_DOMAINS and use.idx == 0:
                scale = constant_of(node.inputs[1])
                zero = constant_of(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
                if scale is None or zero is None or scale.size != 1 or zero.size != 1:
                    return None
                return float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
            if moves(node):
                todo.extend(node.outputs)
    return None


def is_constant(value: ir.Value | None) -> bool:
    """Whether a tensor is a constant of the model, stored as it is or quantised."""
    if value is None:
        return False
    node = value.producer()
    if node is not None and node.op_type == "DequantizeLinear" and node.domain in ONNX_DOMAINS:
        return is_constant(node.inputs[0])
    return ir.convenience.get_const_tensor(value) is not None


def as_run(value: ir.Value) -> ir.Value:
    """The float tensor that later layers read: the dequantised value of a tensor that is quantised, or that only a
    QuantizeLinear reads; any other tensor itself."""
    quantizer = quantizer_of(value) if value.dtype in FLOATS else None
    integers = value if quantizer is None else quantizer.outputs[0]
    return value if integers.dtype in FLOATS else dequantized(integers) or value


def _is_single(scale: ir.Value | None) -> bool:
    array = constant_of(scale)
    return array is not None and array.size == 1


def quantizer_of(value: ir.Value) -> ir.Node | None:
    """The QuantizeLinear that alone reads a computed tensor (or the first of several), None if something else reads
    it."""
    uses = list(value.uses())
    if value.producer() is None or not uses or value.is_graph_output():
        return None
    if all(use.node.op_type == "QuantizeLinear" and use.node.domain in ONNX_DOMAINS and use.idx == 0 for use in uses):
        return uses[0].node
    return None
