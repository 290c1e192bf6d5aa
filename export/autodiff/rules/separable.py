"""Linear operators that act on each axis by itself: resizing, average pooling, padding, slicing with steps.

Along one axis such an operator is a matrix A, and A is the operator applied to the identity matrix. Its adjoint
along that axis is A^T. The operator's own implementation thus defines its gradient: no coordinate convention, rounding
mode or border rule is written a second time, and A is computed once, when the session loads (or at run time, where a
size is dynamic).
"""

import math
from collections.abc import Callable

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Vjp
from portable_cam.export.graph.operators import HALVES
from portable_cam.export.graph.values import dtype_of, rank_of


def apply_adjoint(v: Vjp, g: ir.Value, axis: int, apply: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """A^T g along ``axis``. ``apply`` maps the (n, n) identity to A^T's rows: (n, n) -> (n, m), applying the operator
    along the last axis, n being the input's size along ``axis`` and m the output's."""
    b = v.b
    dtype = dtype_of(v.x)
    half = dtype in HALVES  # ONNX Runtime's CPU provider has no EyeLike of these types, nor most of the operators
    matrix = apply(b.eye(b.dim(v.x, axis), ir.DataType.FLOAT if half else dtype))  # (n, m)
    if half:
        matrix = b.op("Cast", matrix, to=int(dtype))
    if not v.singular:
        return _product(v, g, axis, matrix)
    # a product spreads NaN over the whole axis, which belongs where the operator itself reads it
    finite = b.op("Equal", b.op("Sub", g, g), 0)
    zero, one = b.number(0, v.x), b.number(1, v.x)
    product = _product(v, b.op("Where", finite, g, zero), axis, matrix)
    reached = _product(v, b.op("Where", finite, zero, one), axis, b.op("Abs", matrix))
    return b.op("Where", b.op("Equal", reached, 0), product, b.number(math.nan, v.x))


def _product(v: Vjp, g: ir.Value, axis: int, matrix: ir.Value) -> ir.Value:
    b, rank = v.b, rank_of(v.x)
    if axis == rank - 1:
        return b.op("MatMul", g, b.op("Transpose", matrix, perm=[1, 0]))
    if axis == rank - 2:
        return b.op("MatMul", matrix, g)
    perm = [i for i in range(rank) if i != axis] + [axis]
    moved = b.op("MatMul", b.op("Transpose", g, perm=perm), b.op("Transpose", matrix, perm=[1, 0]))
    return b.op("Transpose", moved, perm=[perm.index(i) for i in range(rank)])
