"""Quantised operators rewritten as what they are defined by: dequantise, compute in floats, quantise.

QLinearConv and its relatives hold a convolution, the scales and zero points of its inputs and those of its output in
one node. Written as DequantizeLinear -> Conv -> QuantizeLinear it is a convolution that the gradient rules know, and
ONNX Runtime fuses the three back into the same integer kernel when it loads the file (docs/adr/0009).

Where a quantised tensor meets an operator that computes on the integers themselves (a MaxPool of uint8), the operator
is moved to the float side in the same way, with the scale and the zero point of the tensor it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from portable_cam.export.builder import ONNX_DOMAINS, constant_of
from portable_cam.export.contrib.registry import DOMAIN
from portable_cam.export.quantized.tensors import moves

_Given: TypeAlias = ir.Value | None
_Attributes: TypeAlias = Mapping[str, ir.Attr | int | Sequence[int]]
_Scale: TypeAlias = tuple[ir.Value, _Given]

#: Operators that the standard defines on 8-bit integers and that compute; which of their inputs are quantised tensors.
_ON_INTEGERS: dict[str, slice] = {
    "Clip": slice(0, 3), "Max": slice(0, None), "MaxPool": slice(0, 1), "Min": slice(0, None), "Relu": slice(0, 1),
    "ReduceMax": slice(0, 1), "ReduceMin": slice(0, 1), "Resize": slice(0, 1), "Where": slice(1, 3),
}  # fmt: skip


def rewrite_qoperators(graph: ir.Graph) -> None:
    """Rewrite each quantised operator of a graph at opset 21, in place. The integer tensors keep their names."""
    Rewriter(graph).run()


class Rewriter:
    """Walks the graph once; each rewrite appends its nodes before the node it replaces."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._scales: dict[ir.Value, _Scale] = {}
        self._floats: dict[tuple[ir.Value, ir.Value, _Given, int | None], ir.Value] = {}
        self._at: ir.Node | None = None
        self._count = 0

    def run(self) -> None:
        for node in list(self._graph):
            self._at = node
            rewrite = REWRITES.get((node.domain, node.op_type))
            if rewrite is not None:
                rewrite(self, node)
            elif node.domain in ONNX_DOMAINS and node.op_type in _ON_INTEGERS:
                self._to_float_side(node)
            else:
                self._note(node)

    # -- what the rewrites write with ------------------------------------------------------------------------------

    def op(
        self, op_type: str, *inputs: _Given, attributes: _Attributes | None = None, name: str | None = None
    ) -> ir.Value:
        """A node of the standard before the node that is rewritten; its first output."""
        return self.op_multi(op_type, inputs, 1, attributes, name)[0]

    def op_multi(
        self, op_type: str, inputs: Sequence[_Given], outputs: int, attributes: _Attributes | None = None,
        name: str | None = None,
    ) -> Sequence[ir.Value]:  # fmt: skip
        assert self._at is not None
        self._count += 1
        name = name or f"{self._at.name}/{op_type}_{self._count}"
        node = ir.node(op_type, inputs, attributes or {}, num_outputs=outputs, name=name)
        for i, value in enumerate(node.outputs):
            value.name = f"{self._at.outputs[0].name}/{op_type}_{self._count}" + (f"_{i}" if i else "")
        self._graph.insert_before(self._at, node)
        return node.outputs

    def constant(self, array: np.ndarray | Sequence[int]) -> ir.Value:
        assert self._at is not None
        self._count += 1
        name = f"{self._at.outputs[0].name}/constant_{self._count}"
        value = ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name))
        value.shape, value.dtype = ir.Shape(np.shape(array)), ir.DataType.from_numpy(np.asarray(array).dtype)
        self._graph.register_initializer(value)
        return value

    def dequantized(self, value: ir.Value, scale: ir.Value, zero: _Given, axis: int | None = None) -> ir.Value:
        """What an integer tensor stands for; one node for all who ask. ``axis``: that of several scales."""
        size = scale.shape[0] if scale.shape is not None and len(scale.shape) == 1 else None
        array = constant_of(scale)
        size = array.size if array is not None else size
        if size == 1 and array is not None and array.ndim == 1:
            scale, zero = self._scalar(scale), None if zero is None else self._scalar(zero)
        along = axis if size not in {1, None} else None
        key = (value, scale, zero, along)
        if key not in self._floats:
            out = self.op("DequantizeLinear", value, scale, zero, attributes={} if along is None else {"axis": along})
            again = any(known is value for known, *_ in self._floats)
            out.name = f"{value.name}/dequantized" + (f"_{self._count}" if again else "")
            self._floats[key] = out
        return self._floats[key]

    def _scalar(self, value: ir.Value) -> ir.Value:
        """Quantised operators take a scale of shape (1,); QuantizeLinear reads that as one value along an axis."""
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            return value
        name = f"{value.name}/scalar"
        known = self._graph.initializers.get(name)
        if known is not None:
            return known
        scalar = ir.Value(name=name, const_value=ir.tensor(tensor.numpy().reshape(()), dtype=tensor.dtype, name=name))
        scalar.shape, scalar.dtype = ir.Shape([]), tensor.dtype
        self._graph.register_initializer(scalar)
        return scalar

    def scale_of(self, value: ir.Value) -> _Scale | None:
        """The scale and zero point that the integers of ``value`` were made with, if an operator before it says."""
        return self._scales.get(value)

    def finish(self, node: ir.Node, result: ir.Value, scale: _Given, zero: _Given) -> None:
        """Replace the node by ``result`` quantised, or as it is if the operator gives floats."""
        out = node.outputs[0]
        name, kind, shape = out.name, out.type, out.shape
        if scale is None:
            new = self.op("Identity", result)
        else:
            array = constant_of(scale)
            if array is not None and array.shape == (1,):
                scale, zero = self._scalar(scale), None if zero is None else self._scalar(zero)
            new = self.op("QuantizeLinear", result, scale, zero, name=node.name)
            self._scales[new] = (scale, zero)
        ir.convenience.replace_all_uses_with(out, new, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)
        new.name, new.type, new.shape = name, kind, shape

    def attributes(self, node: ir.Node, *but: str) -> dict[str, ir.Attr]:
        return {name: attribute for name, attribute in node.attributes.items() if name not in but}

    # -- integer tensors between the quantised operators -----------------------------------------------------------

    def _note(self, node: ir.Node) -> None:
        """Remember the scale of the integer tensors that a node makes."""
        if node.op_type == "QuantizeLinear" and node.domain in ONNX_DOMAINS and node.inputs[1] is not None:
            array = constant_of(node.inputs[1])
            if array is None or array.size == 1:
                self._scales[node.outputs[0]] = (node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None)
        elif node.op_type == "DynamicQuantizeLinear":
            self._scales[node.outputs[0]] = (node.outputs[1], node.outputs[2])
        elif moves(node) and node.inputs[0] in self._scales:
            for output in node.outputs:
                self._scales[output] = self._scales[node.inputs[0]]
        elif node.op_type == "DequantizeLinear" and node.domain in ONNX_DOMAINS and "axis" not in node.attributes:
            x, scale = node.inputs[0], node.inputs[1]
            assert x is not None
            assert scale is not None
            self._floats.setdefault((x, scale, node.inputs[2] if len(node.inputs) > 2 else None, None), node.outputs[0])

    def _to_float_side(self, node: ir.Node) -> None:
        """An operator on integers becomes the same one on what they stand for; exact, for it only chooses among them
        (Resize, which interpolates, rounds as before)."""
        span = _ON_INTEGERS[node.op_type]
        data = node.inputs[span]
        known = next((self._scales[v] for v in data if v in self._scales), None)
        if known is None or not all(v is None or v not in self._scales or _alike(self._scales[v], known) for v in data):
            return
        scale, zero = known
        inputs = list(node.inputs)
        inputs[span] = [None if v is None else self.dequantized(v, scale, zero) for v in data]
        offset = constant_of(zero)
        if node.op_type == "Relu" and not (offset is not None and not offset.any()):
            # not below the integer 0, whatever that stands for
            kind = zero.dtype if zero is not None and zero.dtype is not None else ir.DataType.UINT8
            floor = self.dequantized(self.constant(np.zeros((), kind.numpy())), scale, zero)
            result = self.op("Clip", inputs[0], floor)
        else:
            result = self.op_multi(node.op_type, inputs, len(node.outputs), node.attributes)[0]
        self.finish(node, result, scale, zero)


def _alike(left: _Scale, right: _Scale) -> bool:
    """Whether two pairs of scale and zero point have the same content."""
    for a, b in zip(left, right, strict=True):
        one, other = constant_of(a), constant_of(b)
        if a is not b and (one is None or other is None or not np.array_equal(one.reshape(-1), other.reshape(-1))):
            return False
    return True


# -- the rewrites --------------------------------------------------------------------------------------------------

_Rewrite: TypeAlias = Callable[[Rewriter, ir.Node], None]
#: The rewrites by domain and operator.
REWRITES: dict[tuple[str, str], _Rewrite] = {}


def _rewrites(*op_types: str, domain: str = DOMAIN) -> Callable[[_Rewrite], _Rewrite]:
    def add(function: _Rewrite) -> _Rewrite:
        for op_type in op_types:
            REWRITES[domain, op_type] = function
        return function

    return add


def _inputs(node: ir.Node, count: int) -> list[_Given]:
    return [node.inputs[i] if i < len(node.inputs) else None for i in range(count)]


def _tensor(r: Rewriter, node: ir.Node, first: int, axis: int | None = None) -> ir.Value:
    """The dequantised tensor whose integers, scale and zero point are the inputs from ``first`` on."""
    value, scale, zero = _inputs(node, first + 3)[first:]
    assert value is not None
    assert scale is not None
    return r.dequantized(value, scale, zero, axis)


@_rewrites("QuantizeLinear", "DequantizeLinear")
def _standard_twin(r: Rewriter, node: ir.Node) -> None:
    """The contrib versions were there before the standard had 16-bit and 4-bit integers."""
    attributes = r.attributes(node)
    if node.op_type == "DequantizeLinear":
        result = r.op("DequantizeLinear", *node.inputs, name=node.name, attributes=attributes)
    else:
        result = r.op("QuantizeLinear", *node.inputs, name=node.name, attributes=attributes)
    r.finish(node, result, None, None)


@_rewrites("QLinearConv", domain="")
@_rewrites("QLinearConv")
def _conv(r: Rewriter, node: ir.Node) -> None:
    """The bias is int32 in steps of x_scale * w_scale."""
    x_scale, w_scale, bias = node.inputs[1], node.inputs[4], _inputs(node, 9)[8]
    x, w = _tensor(r, node, 0), _tensor(r, node, 3, axis=0)
    if bias is not None:
        step = _product(r, x_scale, w_scale)
        bias = r.dequantized(bias, step, None, axis=0)
    last = bool(node.attributes.get_int("channels_last", 0))
    rank = _rank(w)
    x = r.op("Transpose", x, attributes={"perm": [0, rank - 1, *range(1, rank - 1)]}) if last else x
    y = r.op("Conv", x, w, bias, attributes=r.attributes(node, "channels_last"))
    y = r.op("Transpose", y, attributes={"perm": [0, *range(2, rank), 1]}) if last else y
    r.finish(node, y, node.inputs[6], node.inputs[7])


def _product(r: Rewriter, first: _Given, second: _Given) -> ir.Value:
    assert first is not None
    assert second is not None
    a, b = constant_of(first), constant_of(second)
    if a is None or b is None:
        return r.op("Mul", first, second)
    product = a.reshape(-1) * b.reshape(-1)
    return r.constant(product if product.size > 1 else product.reshape(()))


def _rank(dequantized: ir.Value) -> int:
    producer = dequantized.producer()
    assert producer is not None
    source = producer.inputs[0]
    assert source is not None
    return len(source.shape) if source.shape is not None else 4


@_rewrites("QLinearMatMul", domain="")
def _matmul(r: Rewriter, node: ir.Node) -> None:
    """A scale with several values belongs to the rows of the first matrix, the columns of the second."""
    y = r.op("MatMul", _tensor(r, node, 0, axis=-2), _tensor(r, node, 3, axis=-1))
    r.finish(node, y, node.inputs[6], node.inputs[7])


@_rewrites("QLinearAdd", "QLinearMul")
def _binary(r: Rewriter, node: ir.Node) -> None:
    y = r.op(node.op_type.removeprefix("QLinear"), _tensor(r, node, 0), _tensor(r, node, 3))
    r.finish(node, y, node.inputs[6], _inputs(node, 8)[7])


@_rewrites("QLinearSigmoid", "QLinearLeakyRelu")
def _unary(r: Rewriter, node: ir.Node) -> None:
    y = r.op(node.op_type.removeprefix("QLinear"), _tensor(r, node, 0), attributes=r.attributes(node))
    r.finish(node, y, node.inputs[3], _inputs(node, 5)[4])


@_rewrites("QLinearSoftmax")
def _softmax(r: Rewriter, node: ir.Node) -> None:
    """Before opset 13 everything from the axis on is one vector."""
    x = _tensor(r, node, 0)
    axis = node.attributes.get_int("axis", -1)
    assert axis is not None
    if node.attributes.get_int("opset", 13) < 13:
        flat = r.op("Flatten", x, attributes={"axis": axis})
        y = r.op("Reshape", r.op("Softmax", flat, attributes={"axis": -1}), r.op("Shape", x))
    else:
        y = r.op("Softmax", x, attributes={"axis": axis})
    r.finish(node, y, node.inputs[3], _inputs(node, 5)[4])


@_rewrites("QLinearGlobalAveragePool", "QLinearAveragePool")
def _average(r: Rewriter, node: ir.Node) -> None:
    _pool(r, node, node.op_type.removeprefix("QLinear"), _tensor(r, node, 0), node.inputs[3], _inputs(node, 5)[4])


@_rewrites("NhwcMaxPool")
def _nhwc_max_pool(r: Rewriter, node: ir.Node) -> None:
    x = node.inputs[0]
    known = None if x is None else r.scale_of(x)
    if x is None or known is None:
        return  # of floats
    scale, zero = known
    _pool(r, node, "MaxPool", r.dequantized(x, scale, zero), scale, zero, last=True)


def _pool(
    r: Rewriter, node: ir.Node, op_type: str, x: ir.Value, scale: _Given, zero: _Given, *, last: bool = False
) -> None:
    kernel = node.attributes.get_ints("kernel_shape", None)
    rank = len(kernel) + 2 if kernel is not None else _rank(x)
    last = last or bool(node.attributes.get_int("channels_last", 0))
    x = r.op("Transpose", x, attributes={"perm": [0, rank - 1, *range(1, rank - 1)]}) if last else x
    y = r.op(op_type, x, attributes=r.attributes(node, "channels_last"))
    y = r.op("Transpose", y, attributes={"perm": [0, *range(2, rank), 1]}) if last else y
    r.finish(node, y, scale, zero)


@_rewrites("QLinearConcat")
def _concat(r: Rewriter, node: ir.Node) -> None:
    parts = [_tensor(r, node, first) for first in range(2, len(node.inputs), 3)]
    r.finish(node, r.op("Concat", *parts, attributes=r.attributes(node)), node.inputs[0], node.inputs[1])


@_rewrites("QLinearWhere")
def _where(r: Rewriter, node: ir.Node) -> None:
    y = r.op("Where", node.inputs[0], _tensor(r, node, 1), _tensor(r, node, 4))
    r.finish(node, y, node.inputs[7], _inputs(node, 9)[8])


@_rewrites("QLinearReduceMean")
def _reduce_mean(r: Rewriter, node: ir.Node) -> None:
    axes = node.attributes.get_ints("axes", None)
    y = r.op("ReduceMean", _tensor(r, node, 0), None if axes is None else r.constant(np.array(axes, np.int64)),
             attributes={"keepdims": node.attributes.get_int("keepdims", 1) or 0})  # fmt: skip
    r.finish(node, y, node.inputs[3], _inputs(node, 5)[4])


@_rewrites("QGemm")
def _gemm(r: Rewriter, node: ir.Node) -> None:
    """The bias is int32 in steps of alpha * a_scale * b_scale; without an output scale the output is float."""
    turned = bool(node.attributes.get_int("transB", 0))
    a, b = _tensor(r, node, 0), _tensor(r, node, 3, axis=0 if turned else 1)
    bias, scale, zero = _inputs(node, 9)[6:]
    if bias is not None:
        step = _product(r, node.inputs[1], node.inputs[4])
        alpha = node.attributes.get_float("alpha", 1.0)
        if alpha != 1.0:
            array = constant_of(step)
            step = r.constant(np.asarray(array * np.float32(alpha))) if array is not None else step
        bias = r.dequantized(bias, step, None, axis=-1)
    r.finish(node, r.op("Gemm", a, b, bias, attributes=r.attributes(node)), scale, zero)


@_rewrites("MatMulIntegerToFloat")
def _matmul_to_float(r: Rewriter, node: ir.Node) -> None:
    """(A, B, a_scale, b_scale, a_zero, b_zero, bias) in the standard's own operators; what ONNX Runtime made it of."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = _inputs(node, 7)
    _integer_product(r, node, (a, a_scale, a_zero), (b, b_scale, b_zero), bias)


@_rewrites("DynamicQuantizeMatMul")
def _dynamic_matmul(r: Rewriter, node: ir.Node) -> None:
    a, b, b_scale, b_zero, bias = _inputs(node, 5)
    quantized, scale, zero = r.op_multi("DynamicQuantizeLinear", [a], 3)
    _integer_product(r, node, (quantized, scale, zero), (b, b_scale, b_zero), bias)


def _integer_product(
    r: Rewriter, node: ir.Node, a: tuple[_Given, _Given, _Given], b: tuple[_Given, _Given, _Given], bias: _Given
) -> None:
    exact = r.op("MatMulInteger", a[0], b[0], a[2], b[2])
    y = r.op("Mul", r.op("Cast", exact, attributes={"to": int(ir.DataType.FLOAT)}), r.op("Mul", a[1], b[1]))
    r.finish(node, y if bias is None else r.op("Add", y, bias), None, None)
