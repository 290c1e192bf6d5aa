# SPDX-License-Identifier: Apache-2.0
"""Resizing written as products with matrices that the graph computes from the photo's size, to Pillow's very numbers.

The standard's Resize has none of Pillow's filters but one, and runtimes round it differently or have it not at all.
Pillow (``Resample.c``) adds up bytes times weights of 22 bits, and shifts. Here a weight is two halves of 11 bits: sums
of bytes times these are whole numbers that float32 holds, and so the same on every runtime, in whatever order they are
added.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder

_BITS = 22  # of a weight; Pillow's PRECISION_BITS
_HALF = 1 << 11


def positions(b: Builder, count: ir.Value) -> ir.Value:
    """0, 1, 2 ... (count,), for a scalar int64 count."""
    return b.op("Range", b.ints(0), count, b.ints(1))


def centres_apart(b: Builder, index: ir.Value, count: ir.Value, source: ir.Value) -> ir.Value:
    """How far the centre of pixel j of ``source`` pixels lies from the centre of pixel ``index`` of ``count``, which
    span the same: int64 (rows, source), in units of 1 / (2 count) of a source pixel."""
    ours = b.op("Mul", b.op("Add", b.op("Mul", index, 2), 1), source)
    theirs = b.op("Mul", b.op("Add", b.op("Mul", positions(b, source), 2), 1), count)
    return b.op("Sub", theirs, b.op("Unsqueeze", ours, b.ints([1])))


def resize(
    b: Builder, pixels: ir.Value, index: ir.Value, count: ir.Value, source: ir.Value, kind: str, *, rows: bool
) -> ir.Value:
    """Resize along one axis with one of Pillow's filters, which are widened where they shrink.

    Args:
        b: Writes the nodes.
        pixels: Whole numbers of 0 to 255 in float32, (C, H, W).
        index: Which of the ``count`` pixels are wanted, int64 (size,).
        count: Of the axis resized, a scalar.
        source: Of the axis given, a scalar.
        kind: ``nearest``, ``box``, ``bilinear``, ``bicubic`` or ``lanczos``.
        rows: Along the rows' axis, H; else along W.
    """
    weights = _whole_weights(b, index, count, source, kind)
    high = b.op("Div", weights, _HALF)
    low = b.op("Sub", weights, b.op("Mul", high, _HALF))
    sums = []
    for part in (high, low):
        matrix = _float(b, part)
        if rows:
            product = b.op("MatMul", matrix, pixels)
        else:
            product = b.op("MatMul", pixels, b.op("Transpose", matrix, perm=[1, 0]))
        sums.append(b.op("Cast", product, to=int(ir.DataType.INT64)))
    total = b.op("Add", b.op("Add", b.op("Mul", sums[0], _HALF), sums[1]), 1 << (_BITS - 1))
    level = b.op("Min", b.op("Div", b.op("Max", total, 0), 1 << _BITS), 255)
    return _float(b, level)


def _whole_weights(b: Builder, index: ir.Value, count: ir.Value, source: ir.Value, kind: str) -> ir.Value:
    """int64 (rows, source): each row's weights, whose sum is 1 << 22 up to rounding."""
    apart, widest = centres_apart(b, index, count, source), b.op("Max", count, source)
    if kind == "nearest":
        # the pixel that the centre lies in: its own centre is less than half a pixel before, or at most half behind
        inside = b.op("And", b.op("LessOrEqual", apart, count), b.op("Greater", apart, b.op("Neg", count)))
        return b.op("Mul", _whole(b, inside), 1 << _BITS)
    if kind in {"bilinear", "box"}:
        if kind == "bilinear":
            parts = b.op("Max", b.op("Sub", b.op("Mul", widest, 2), b.op("Abs", apart)), 0)
        else:
            parts = b.op("And", b.op("LessOrEqual", apart, widest), b.op("Greater", apart, b.op("Neg", widest)))
            parts = _whole(b, parts)
        total = b.op("ReduceSum", parts, b.ints([1]), keepdims=1)
        return _share(b, parts, b.op("Max", total, 1))  # 0 beside the photo, which is padded
    values = _weights(b, b.op("Div", _float(b, apart), _float(b, b.op("Mul", widest, 2))), kind)
    values = b.op("Div", values, b.op("ReduceSum", values, b.ints([1]), keepdims=1))
    size = b.op("Floor", b.op("Add", b.op("Mul", b.op("Abs", values), 1 << _BITS), 0.5))
    return b.op("Mul", _whole(b, size), _whole(b, b.op("Sign", values)))


def _share(b: Builder, part: ir.Value, whole: ir.Value) -> ir.Value:
    """``part / whole`` in 22 bits, rounded: a few bits at a time, so that nothing leaves the range of 31 bits, in which
    some runtimes compute int64."""
    quotient, rest = b.ints(0), part
    for bits in (8, 7, 7):
        shifted = b.op("Mul", rest, 1 << bits)
        digits = b.op("Div", shifted, whole)
        rest = b.op("Sub", shifted, b.op("Mul", digits, whole))
        quotient = b.op("Add", b.op("Mul", quotient, 1 << bits), digits)
    up = b.op("GreaterOrEqual", b.op("Mul", rest, 2), whole)
    return b.op("Add", quotient, _whole(b, up))


def _weights(b: Builder, x: ir.Value, kind: str) -> ir.Value:
    distance = b.op("Abs", x)
    if kind == "bicubic":  # Keys 1981 with a = -0.5
        near = _polynomial(b, distance, (1.5, -2.5, 0.0, 1.0))
        far = _polynomial(b, distance, (-0.5, 2.5, -4.0, 2.0))
        within = b.op("Where", b.op("Less", distance, 1), near, far)
        return b.op("Where", b.op("Less", distance, 2), within, b.number(0, x))
    windowed = b.op("Mul", _sinc(b, x), _sinc(b, b.op("Div", x, 3)))
    return b.op("Where", b.op("Less", distance, 3), windowed, b.number(0, x))


def _polynomial(b: Builder, x: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
    total = b.number(coefficients[0], x)
    for coefficient in coefficients[1:]:
        total = b.op("Add", b.op("Mul", x, total), coefficient)
    return total


def _sinc(b: Builder, x: ir.Value) -> ir.Value:
    at_zero = b.op("Equal", x, 0)
    angle = b.op("Mul", b.op("Where", at_zero, b.number(1, x), x), math.pi)
    return b.op("Where", at_zero, b.number(1, x), b.op("Div", b.op("Sin", angle), angle))


def lay_matrix(b: Builder, photo: ir.Value, scaled: ir.Value, first: ir.Value, size: int) -> ir.Value:
    """Float32 (photo, size): lays ``size`` pixels over a photo of ``photo``, of which they show, from pixel ``first``
    on, the photo scaled to ``scaled``. Between pixels linear, beyond the first and last centre that pixel's value;
    where a photo's pixel was not seen, zero."""
    # the position in the input, in units of 1 / (2 photo) of its pixel, counted from its edge
    twice = b.op("Mul", photo, 2)
    at = b.op("Mul", b.op("Add", b.op("Mul", positions(b, photo), 2), 1), scaled)
    at = b.op("Sub", at, b.op("Mul", first, twice))
    seen = b.op("And", b.op("GreaterOrEqual", at, 0), b.op("Less", at, b.op("Mul", twice, size)))
    from_centre = b.op("Min", b.op("Max", b.op("Sub", at, photo), 0), b.op("Mul", twice, size - 1))
    columns = b.op("Mul", b.ints(range(size)), twice)
    apart = b.op("Sub", columns, b.op("Unsqueeze", from_centre, b.ints([1])))
    x = b.op("Abs", b.op("Div", _float(b, apart), _float(b, twice)))
    values = b.op("Max", b.op("Sub", b.number(1, x), x), 0)
    return b.op("Where", b.op("Unsqueeze", seen, b.ints([1])), values, b.number(0, values))


def _float(b: Builder, value: ir.Value) -> ir.Value:
    return b.op("Cast", value, to=int(ir.DataType.FLOAT))


def _whole(b: Builder, value: ir.Value) -> ir.Value:
    return b.op("Cast", value, to=int(ir.DataType.INT64))
