"""Quantised tensors. The gradient of an integer tensor is that of its dequantised value, so that it passes
QuantizeLinear and DequantizeLinear unchanged (straight-through estimator, Bengio et al. 2013, arXiv 1308.3432), except
where the range of QuantizeLinear replaces an activation that a quantiser dropped."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from portable_cam.export.autodiff.dequantized import dequantized, scale_of
from portable_cam.export.autodiff.quantized_ranges import gradient_ends
from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.autodiff.rules.conv import read_window, transposed_conv
from portable_cam.export.autodiff.rules.relu import pass_below, pass_where_positive
from portable_cam.export.graph.values import constant_of, input_of, rank_of, shape_of


@register("QuantizeLinear", inputs=[0])
def quantize(v: Vjp) -> Sequence[Gradient]:
    """Masked at the ends of the range that stop the gradient (:func:`gradient_ends`). A value on the last step counts
    as clipped: the value before rounding is not read, for ONNX Runtime would then no longer compute the node before
    this one in integers."""
    b, g = v.b, v.g
    low, high = gradient_ends(v.node, v.saturation, v.residuals.activation(v.node))
    if v.relu_rule == "deconvnet":
        return [b.op("Relu", g)]
    if v.relu_rule == "guided":
        g = b.op("Relu", g)
    if low is None and high is None:
        return [g]
    y = dequantized(v.node.outputs[0])
    if y is None:
        raise v.unsupported("nothing reads the integers that it makes, and its scale is not known")
    if low is not None:
        g = pass_where_positive(v, y, g) if low == 0 else _where(v, "Greater", y, low, g)
    if high is not None:
        g = pass_below(v, y, high, g) if low == 0 else _where(v, "Less", y, high, g)
    return [g]


def _where(v: Vjp, compare: str, y: ir.Value, bound: float, g: ir.Value) -> ir.Value:
    return v.b.op("Where", v.b.op(compare, y, bound), g, v.b.number(0, g))


@register("DynamicQuantizeLinear", inputs=[0])
def dynamic_quantize(v: Vjp) -> Sequence[Gradient]:
    """Its range is that of the tensor itself: nothing is clipped."""
    return [v.grads[0]]


@register("DequantizeLinear", inputs=[0])
def dequantize(v: Vjp) -> Sequence[Gradient]:
    """A scale other than the one the integers were made with multiplies the value."""
    made = scale_of(input_of(v.node, 0))
    scale = v.input(1)
    if made is None or _same(made, scale):
        return [v.g]
    if any(value.shape is None or len(value.shape) > 0 for value in (made, scale)):
        raise v.unsupported("its scale per channel is not the one that its integers were made with")
    return [v.b.op("Mul", v.g, v.b.op("Div", scale, made))]


def _same(left: ir.Value, right: ir.Value) -> bool:
    if left is right:
        return True
    a, b = constant_of(left), constant_of(right)
    return a is not None and b is not None and bool(np.array_equal(a.reshape(-1), b.reshape(-1)))


def per_step(v: Vjp, gradient: ir.Value, index: int) -> ir.Value:
    """The gradient with respect to the integers of an input, as one with respect to their dequantised values."""
    scale = scale_of(input_of(v.node, index))
    if scale is None:
        return gradient
    if scale.shape is not None and len(scale.shape) > 0:
        raise v.unsupported("its integers have a scale per channel")
    return v.b.op("Div", gradient, scale)


def _shifted(v: Vjp, index: int, zero_index: int, axis: int) -> ir.Value:
    """An integer input minus its zero point, in float32; ``axis`` is that of several zero points."""
    b, value, zero = v.b, v.input(index), v.optional(zero_index)
    if value.dtype != ir.DataType.FLOAT:
        source, value = value, b.op("Cast", value, to=int(ir.DataType.FLOAT))
        value.shape = source.shape
    if zero is None:
        return value
    shape, offset = value.shape, b.op("Cast", zero, to=int(ir.DataType.FLOAT))
    if zero.shape is not None and len(zero.shape) == 1:
        column = [1] * rank_of(value)
        column[axis] = -1
        offset = b.reshape(offset, column)
    out = b.op("Sub", value, offset)
    out.shape = shape
    return out


@register("MatMulInteger", inputs=[0, 1])
def matmul_integer(v: Vjp) -> Sequence[Gradient]:
    """Y = (A - a0) (B - b0) in integers: as MatMul."""
    b, g = v.b, v.g
    left, right = _shifted(v, 0, 2, -2), _shifted(v, 1, 3, -1)
    if min(rank_of(left), rank_of(right)) < 2:
        raise v.unsupported("one of its inputs is a vector")
    to_left: Gradient = None
    to_right: Gradient = None
    if v.needed(0):
        to_left = per_step(v, _unbroadcast(v, b.op("MatMul", g, b.swap_last(right)), left), 0)
    if v.needed(1):
        to_right = per_step(v, _unbroadcast(v, b.op("MatMul", b.swap_last(left), g), right), 1)
    return [to_left, to_right]


def _unbroadcast(v: Vjp, gradient: ir.Value, source: ir.Value) -> ir.Value:
    """The batch dimensions are those of the output, the last two those of the source."""
    out = v.node.outputs[0].shape
    batch = [] if out is None else list(out.dims[:-2])
    gradient.shape = ir.Shape([*batch, *shape_of(source).dims[-2:]])
    return v.b.unbroadcast(gradient, source, gradient)


@register("ConvInteger", inputs=[0])
def conv_integer(v: Vjp) -> Sequence[Gradient]:
    """As Conv, with the weights minus their zero point."""
    weight = _shifted(v, 1, 3, 0)
    return [per_step(v, transposed_conv(v, v.g, weight, read_window(v, weight)), 0)]
