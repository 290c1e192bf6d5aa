# SPDX-License-Identifier: Apache-2.0
"""The first principal component of the positions of a map, in standard operators.

ONNX has no singular value decomposition. What is wanted of it is one direction, which powers of the Gram matrix tend
to: squared n times, a matrix is its own 2^n-th power, of which the first eigenvector is left alone. The rest of the
second is at most (s2 / s1)^(2^(n + 1)) for singular values s1 > s2: with n = 12 below 3e-4 where they differ by a
thousandth of themselves. Where they are as good as equal the direction is arbitrary, here as in every implementation.
"""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.casts import as_float32
from portable_cam.export.graph.values import known_dims

_SQUARINGS = 12


def first_component(b: Builder, maps: ir.Value) -> ir.Value:
    """Each position's coordinate along the first principal component of all positions, (N, C, h, w) -> (N, h w), of
    arbitrary sign: the channels, centred, times their first right singular vector."""
    flat = b.op("Reshape", as_float32(b, maps), b.ints([0, 0, -1]))
    centred = b.op("Sub", flat, b.op("ReduceMean", flat, b.ints([2]), keepdims=1))  # (N, C, P)
    positions = b.op("Transpose", centred, perm=[0, 2, 1])  # (N, P, C)
    if _fewer_channels(maps):
        direction = _first_eigenvector(b, b.op("MatMul", centred, positions))  # (N, C)
        projected = b.op("MatMul", positions, b.op("Unsqueeze", direction, b.ints([2])))
        return b.op("Squeeze", projected, b.ints([2]))
    gram = b.op("MatMul", positions, centred)
    vector = b.op("Unsqueeze", _first_eigenvector(b, gram), b.ints([2]))
    # of the left singular vector u: s u, with s^2 = |gram u|
    long = b.op("ReduceL2", b.op("MatMul", gram, vector), b.ints([1]), keepdims=1)
    return b.op("Squeeze", b.op("Mul", vector, b.op("Sqrt", long)), b.ints([2]))


def _fewer_channels(maps: ir.Value) -> bool:
    dims = known_dims(maps)
    if dims is None or len(dims) != 4 or None in dims[1:]:
        return False
    _, channels, height, width = (d or 0 for d in dims)
    return channels < height * width


def _first_eigenvector(b: Builder, gram: ir.Value) -> ir.Value:
    """Of symmetric matrices without negative eigenvalues, (N, M, M) -> (N, M), of unit length; zeros of zeros."""
    power = _scaled(b, gram)
    for _ in range(_SQUARINGS):
        power = _scaled(b, b.op("MatMul", power, power))
    # as good as u u^T now: its row with the greatest element on the diagonal is u, but for a factor
    squares = b.op("ReduceSumSquare", power, b.ints([2]), keepdims=0)
    best = b.op("ArgMax", squares, axis=1, keepdims=1)
    row = b.op("GatherND", power, best, batch_dims=1)
    return b.op("Div", row, _not_zero(b, b.op("ReduceL2", row, b.ints([1]), keepdims=1)))


def _scaled(b: Builder, matrix: ir.Value) -> ir.Value:
    """Divided by the root of the sum of its squares, so that powers stay in range; its greatest element first, whose
    square may be beyond it."""
    largest = b.op("ReduceMax", b.op("Abs", matrix), b.ints([1, 2]), keepdims=1)
    matrix = b.op("Div", matrix, _not_zero(b, largest))
    return b.op("Div", matrix, _not_zero(b, b.op("ReduceL2", matrix, b.ints([1, 2]), keepdims=1)))


def _not_zero(b: Builder, value: ir.Value) -> ir.Value:
    """One in place of zero, for what stands below a fraction line."""
    return b.op("Where", b.op("Equal", value, 0), b.constant(1, ir.DataType.FLOAT), value)
