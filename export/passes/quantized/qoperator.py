"""Quantised operators rewritten as what they are defined by: dequantise, compute in floats, quantise.

QLinearConv and its relatives hold a convolution, the scales and zero points of its inputs and those of its output in
one node. Written as DequantizeLinear -> Conv -> QuantizeLinear it is a convolution that the gradient rules know, and
ONNX Runtime fuses the three back into the same integer kernel when it loads the file (docs/adr/0009).

Where an operator computes on the integers themselves (a MaxPool of uint8), it is moved to the float side in the same
way, with the scale and the zero point of its input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import PassResult

from portable_cam.export.graph.values import constant_of, input_of, optional_input, producer_of
from portable_cam.export.passes.contrib.registry import DOMAIN
from portable_cam.export.passes.quantized.rewriter import Given, Rewriter

_Rewrite: TypeAlias = Callable[[Rewriter, ir.Node], None]
#: The rewrites by domain and operator.
REWRITES: dict[tuple[str, str], _Rewrite] = {}


def rewrite_qoperators(model: ir.Model) -> PassResult:
    """Rewrite each quantised operator of a model at opset 21, in place. The integer tensors keep their names."""
    return PassResult(model, Rewriter(model.graph).run(REWRITES))


def _rewrites(*op_types: str, domain: str = DOMAIN) -> Callable[[_Rewrite], _Rewrite]:
    def add(function: _Rewrite) -> _Rewrite:
        for op_type in op_types:
            REWRITES[domain, op_type] = function
        return function

    return add


def _tensor(r: Rewriter, node: ir.Node, first: int, axis: int | None = None) -> ir.Value:
    """The dequantised tensor whose integers, scale and zero point are the inputs from ``first`` on."""
    return r.dequantized(input_of(node, first), input_of(node, first + 1), optional_input(node, first + 2), axis)


@_rewrites("QuantizeLinear", "DequantizeLinear")
def _standard_twin(r: Rewriter, node: ir.Node) -> None:
    """The contrib versions are older than the standard's 16-bit and 4-bit integers; else they are the same."""
    node.domain, r.changed = "", True
    r.note(node)


@_rewrites("QLinearConv", domain="")
@_rewrites("QLinearConv")
def _conv(r: Rewriter, node: ir.Node) -> None:
    """The bias is int32 in steps of x_scale * w_scale."""
    x_scale, w_scale, bias = input_of(node, 1), input_of(node, 4), optional_input(node, 8)
    x, w = _tensor(r, node, 0), _tensor(r, node, 3, axis=0)
    if bias is not None:
        step = _product(r, x_scale, w_scale)
        bias = r.dequantized(bias, step, None, axis=0)
    last = bool(node.attributes.get_int("channels_last", 0))
    rank = _rank(w)
    x = r.channels_first(x, rank) if last else x
    y = r.op("Conv", x, w, bias, attributes=r.attributes(node, "channels_last"))
    y = r.channels_last(y, rank) if last else y
    r.finish(node, y, node.inputs[6], node.inputs[7])


def _product(r: Rewriter, first: ir.Value, second: ir.Value) -> ir.Value:
    a, b = constant_of(first), constant_of(second)
    if a is None or b is None:
        return r.op("Mul", first, second)
    product = a.reshape(-1) * b.reshape(-1)
    return r.constant(product if product.size > 1 else product.reshape(()))


def _rank(dequantized: ir.Value) -> int:
    source = input_of(producer_of(dequantized), 0)
    return len(source.shape) if source.shape is not None else 4


@_rewrites("QLinearMatMul", domain="")
def _matmul(r: Rewriter, node: ir.Node) -> None:
    """A scale with several values belongs to the rows of the first matrix, the columns of the second."""
    y = r.op("MatMul", _tensor(r, node, 0, axis=-2), _tensor(r, node, 3, axis=-1))
    r.finish(node, y, node.inputs[6], node.inputs[7])


@_rewrites("QLinearAdd", "QLinearMul")
def _binary(r: Rewriter, node: ir.Node) -> None:
    y = r.op(node.op_type.removeprefix("QLinear"), _tensor(r, node, 0), _tensor(r, node, 3))
    r.finish(node, y, node.inputs[6], optional_input(node, 7))


@_rewrites("QLinearSigmoid", "QLinearLeakyRelu")
def _unary(r: Rewriter, node: ir.Node) -> None:
    y = r.op(node.op_type.removeprefix("QLinear"), _tensor(r, node, 0), attributes=r.attributes(node))
    r.finish(node, y, node.inputs[3], optional_input(node, 4))


@_rewrites("QLinearSoftmax")
def _softmax(r: Rewriter, node: ir.Node) -> None:
    """Before opset 13 everything from the axis on is one vector."""
    x = _tensor(r, node, 0)
    axis = int(node.attributes.get_int("axis", -1))
    if node.attributes.get_int("opset", 13) < 13:
        flat = r.op("Flatten", x, attributes={"axis": axis})
        y = r.op("Reshape", r.op("Softmax", flat, attributes={"axis": -1}), r.op("Shape", x))
    else:
        y = r.op("Softmax", x, attributes={"axis": axis})
    r.finish(node, y, node.inputs[3], optional_input(node, 4))


@_rewrites("QLinearGlobalAveragePool", "QLinearAveragePool")
def _average(r: Rewriter, node: ir.Node) -> None:
    _pool(r, node, node.op_type.removeprefix("QLinear"), _tensor(r, node, 0), node.inputs[3], optional_input(node, 4))


@_rewrites("NhwcMaxPool")
def _nhwc_max_pool(r: Rewriter, node: ir.Node) -> None:
    x = node.inputs[0]
    known = None if x is None else r.scale_of(x)
    if x is None or known is None:
        return  # of floats
    scale, zero = known
    _pool(r, node, "MaxPool", r.dequantized(x, scale, zero), scale, zero, last=True)


def _pool(
    r: Rewriter, node: ir.Node, op_type: str, x: ir.Value, scale: Given, zero: Given, *, last: bool = False
) -> None:
    kernel = node.attributes.get_ints("kernel_shape", None)
    rank = len(kernel) + 2 if kernel is not None else _rank(x)
    last = last or bool(node.attributes.get_int("channels_last", 0))
    x = r.channels_first(x, rank) if last else x
    y = r.op(op_type, x, attributes=r.attributes(node, "channels_last"))
    y = r.channels_last(y, rank) if last else y
    r.finish(node, y, scale, zero)


@_rewrites("QLinearConcat")
def _concat(r: Rewriter, node: ir.Node) -> None:
    parts = [_tensor(r, node, first) for first in range(2, len(node.inputs), 3)]
    r.finish(node, r.op("Concat", *parts, attributes=r.attributes(node)), node.inputs[0], node.inputs[1])


@_rewrites("QLinearWhere")
def _where(r: Rewriter, node: ir.Node) -> None:
    y = r.op("Where", node.inputs[0], _tensor(r, node, 1), _tensor(r, node, 4))
    r.finish(node, y, node.inputs[7], optional_input(node, 8))


@_rewrites("QLinearReduceMean")
def _reduce_mean(r: Rewriter, node: ir.Node) -> None:
    axes = node.attributes.get_ints("axes", None)
    y = r.op(
        "ReduceMean",
        _tensor(r, node, 0),
        None if axes is None else r.constant(np.array(axes, np.int64)),
        attributes={"keepdims": node.attributes.get_int("keepdims", 1) or 0},
    )
    r.finish(node, y, node.inputs[3], optional_input(node, 4))


@_rewrites("QGemm")
def _gemm(r: Rewriter, node: ir.Node) -> None:
    """The bias is int32 in steps of alpha * a_scale * b_scale; without an output scale the output is float."""
    turned = bool(node.attributes.get_int("transB", 0))
    a, b = _tensor(r, node, 0), _tensor(r, node, 3, axis=0 if turned else 1)
    bias, scale, zero = (optional_input(node, i) for i in (6, 7, 8))
    if bias is not None:
        step = _product(r, input_of(node, 1), input_of(node, 4))
        alpha = node.attributes.get_float("alpha", 1.0)
        if alpha != 1.0:
            array = constant_of(step)
            step = r.constant(np.asarray(array * np.float32(alpha))) if array is not None else step
        bias = r.dequantized(bias, step, None, axis=-1)
    r.finish(node, r.op("Gemm", a, b, bias, attributes=r.attributes(node)), scale, zero)


@_rewrites("MatMulIntegerToFloat")
def _matmul_to_float(r: Rewriter, node: ir.Node) -> None:
    """(A, B, a_scale, b_scale, a_zero, b_zero, bias) in the standard's own operators, which ONNX Runtime fused."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (optional_input(node, i) for i in range(7))
    _integer_product(r, node, (a, a_scale, a_zero), (b, b_scale, b_zero), bias)


@_rewrites("DynamicQuantizeMatMul")
def _dynamic_matmul(r: Rewriter, node: ir.Node) -> None:
    a, b, b_scale, b_zero, bias = (optional_input(node, i) for i in range(5))
    quantized, scale, zero = r.op_multi("DynamicQuantizeLinear", [a], 3)
    _integer_product(r, node, (quantized, scale, zero), (b, b_scale, b_zero), bias)


def _integer_product(
    r: Rewriter, node: ir.Node, a: tuple[Given, Given, Given], b: tuple[Given, Given, Given], bias: Given
) -> None:
    exact = r.op("MatMulInteger", a[0], b[0], a[2], b[2])
    y = r.op("Mul", r.op("Cast", exact, attributes={"to": int(ir.DataType.FLOAT)}), r.op("Mul", a[1], b[1]))
    r.finish(node, y if bias is None else r.op("Add", y, bias), None, None)
