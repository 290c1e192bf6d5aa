"""Where the entries of a view look at in the tensor that it was cut out of, where another tensor says so: written as
nodes that read that tensor, one affine map of row and column for each entry of the batch.

An affine map is a matrix (3, 3) of row, column and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from portable_cam.export.graph.attributes import NodeView
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import constant_of, input_of, known_dims, optional_input
from portable_cam.export.layers.frames import View

#: The input that says of which image a view is.
INDEX = {"RoiAlign": 2, "Gather": 1}
_FLOAT = int(ir.DataType.FLOAT)
_CROOKED = 0.05  # of an entry: how far a grid may be from the affine map through its corners


@dataclass(frozen=True)
class _Places(NodeView):
    """The node of a view."""

    view: View
    node: ir.Node

    def axes(self) -> Iterator[tuple[int, int]]:
        """Of rows and columns the spatial axis, and which axis of the node's tensors it is."""
        return zip(self.view.spatial, self.view.axes, strict=True)

    def chosen(self, index: int) -> list[int]:
        """The axes that an input names; all where it does not."""
        rank, given = len(known_dims(self.node.inputs[0]) or []), constant_of(optional_input(self.node, index))
        return [int(a) % rank for a in (range(rank) if given is None else given.reshape(-1))]


def node_matrix(b: Builder, view: View) -> ir.Value:
    """(E, 3, 3) float32, or (1, 3, 3) for all entries alike: from an entry of the node's output to one of its first
    input. NaN where the places follow no affine map."""
    assert view.node is not None
    return _WRITERS[view.node.op_type](b, _Places(view, view.node))


def matrix(b: Builder, *terms: tuple[ir.Value | float, int, int]) -> ir.Value:
    """(E, 3, 3) of its terms: the numbers (E,) or (1,) at a row and column; the last row is 0, 0, 1."""
    fixed = np.zeros((1, 3, 3), np.float32)
    fixed[0, 2, 2] = 1
    found: ir.Value | None = None
    for value, row, column in terms:
        if not isinstance(value, ir.Value):
            fixed[0, row, column] += value
            continue
        basis = np.zeros((3, 3), np.float32)
        basis[row, column] = 1
        term = b.op("Mul", b.reshape(value, [-1, 1, 1]), b.constant(basis, ir.DataType.FLOAT))
        found = term if found is None else b.op("Add", found, term)
    constant = b.constant(fixed, ir.DataType.FLOAT)
    return constant if found is None else b.op("Add", found, constant)


def _float(b: Builder, value: ir.Value) -> ir.Value:
    return value if value.dtype == ir.DataType.FLOAT else b.op("Cast", value, to=_FLOAT)


def _size(b: Builder, value: ir.Value, axis: int) -> ir.Value:
    """(1,) float32."""
    return _float(b, b.dim(value, axis))


def _number(b: Builder, values: ir.Value, at: int) -> ir.Value:
    """(1,) float32: one of a vector."""
    return b.op("Slice", _float(b, values), b.ints([at]), b.ints([at + 1]), b.ints([0]))


def _regions(b: Builder, at: _Places) -> ir.Value:
    boxes = _float(b, input_of(at.node, 1))
    scale = at.float_attr("spatial_scale", 1.0)
    half = at.str_attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    terms = []
    for spatial, axis in at.axes():
        cells = at.int_attr(("output_height", "output_width")[axis - 2], 1)
        first, last = (
            b.op("Sub", b.op("Mul", b.op("Gather", boxes, b.ints(i), axis=1), scale), 0.5 if half else 0.0)
            for i in (3 - axis, 5 - axis)
        )
        length = b.op("Sub", last, first)
        cell = b.op("Div", length if half else b.op("Max", length, 1.0), float(cells))
        terms += [(cell, spatial, spatial), (b.op("Add", first, b.op("Mul", cell, 0.5)), spatial, 2)]
    return matrix(b, *terms)


def _grid(b: Builder, at: _Places) -> ir.Value:
    grid, data, corners = _float(b, input_of(at.node, 1)), input_of(at.node, 0), at.int_attr("align_corners", 0)
    terms: list[tuple[ir.Value | float, int, int]] = []
    crooked: list[ir.Value] = []
    for spatial, axis in at.axes():
        size, place = _size(b, data, axis), b.op("Gather", grid, b.ints(3 - axis), axis=3)  # (E, rows, columns)
        half = b.op("Mul", b.op("Sub", size, 1.0), 0.5)
        index = b.op("Add", b.op("Mul", place, half if corners else b.op("Mul", size, 0.5)), half)
        first, low, right = (_corner(b, index, *corner) for corner in ((0, 0), (-1, 0), (0, -1)))
        rest = b.op("Sub", index, first)
        terms.append((first, spatial, 2))
        for other, end, k in zip(at.view.spatial, (low, right), (1, 2), strict=True):
            count = b.op("Sub", _size(b, grid, k), 1.0)
            step = b.op("Div", b.op("Sub", end, first), count)
            entry = b.op("Range", b.ints(0), b.op("Squeeze", b.dim(grid, k)), b.ints(1))
            entry = b.reshape(_float(b, entry), [1, -1, 1] if k == 1 else [1, 1, -1])
            rest = b.op("Sub", rest, b.op("Mul", step, entry))
            terms.append((step, spatial, other))
        crooked.append(b.op("ReduceMax", b.op("Abs", rest), b.ints([1, 2]), keepdims=0))
    worst = b.op("Max", *crooked)
    nothing = b.constant(np.array([np.nan], np.float32), ir.DataType.FLOAT)
    zero = b.constant(np.array([0], np.float32), ir.DataType.FLOAT)
    return matrix(b, *terms, (b.op("Where", b.op("LessOrEqual", worst, _CROOKED), zero, nothing), 0, 2))


def _corner(b: Builder, at: ir.Value, row: int, column: int) -> ir.Value:
    """(E, 1, 1) of (E, rows, columns)."""
    ends = [2**62 if i == -1 else i + 1 for i in (row, column)]
    return b.op("Slice", at, b.ints([row, column]), b.ints(ends), b.ints([1, 2]))


def _cut(b: Builder, at: _Places) -> ir.Value:
    data, starts, chosen = input_of(at.node, 0), input_of(at.node, 1), at.chosen(3)
    steps = constant_of(optional_input(at.node, 4))
    terms: list[tuple[ir.Value | float, int, int]] = []
    for spatial, axis in at.axes():
        if axis not in chosen:
            terms.append((1.0, spatial, spatial))
            continue
        k = chosen.index(axis)
        step = 1 if steps is None else int(steps.reshape(-1)[k])
        size, start = _size(b, data, axis), _number(b, starts, k)
        start = b.op("Where", b.op("Less", start, 0.0), b.op("Add", start, size), start)
        last = size if step > 0 else b.op("Sub", size, 1.0)
        terms += [(float(step), spatial, spatial), (b.op("Max", b.op("Min", start, last), 0.0), spatial, 2)]
    return matrix(b, *terms)


def _padded(b: Builder, at: _Places) -> ir.Value:
    pads, chosen = input_of(at.node, 1), at.chosen(3)
    terms: list[tuple[ir.Value | float, int, int]] = []
    for spatial, axis in at.axes():
        terms.append((1.0, spatial, spatial))
        if axis in chosen:
            terms.append((b.op("Neg", _number(b, pads, chosen.index(axis))), spatial, 2))
    return matrix(b, *terms)


def _resized(b: Builder, at: _Places) -> ir.Value:
    data, out = input_of(at.node, 0), at.node.outputs[0]
    mode = at.str_attr("coordinate_transformation_mode", "half_pixel")
    terms: list[tuple[ir.Value | float, int, int]] = []
    for spatial, axis in at.axes():
        before, after = _size(b, data, axis), _size(b, out, axis)
        if mode == "align_corners":
            step = b.op("Div", b.op("Sub", before, 1.0), b.op("Max", b.op("Sub", after, 1.0), 1.0))
            terms.append((step, spatial, spatial))
            continue
        step = b.op("Div", before, after)
        terms.append((step, spatial, spatial))
        middle = b.op("Mul", b.op("Sub", step, 1.0), 0.5)
        if at.str_attr("mode", "nearest") == "nearest" and mode == "asymmetric":
            terms.append((b.op("Min", middle, 0.0), spatial, 2))  # one entry is read, or stands several times
        elif mode != "asymmetric":
            terms.append((middle, spatial, 2))
    return matrix(b, *terms)


def _same(b: Builder, at: _Places) -> ir.Value:
    return matrix(b, *((1.0, spatial, spatial) for spatial in at.view.spatial))


_WRITERS: dict[str, Callable[[Builder, _Places], ir.Value]] = {
    "RoiAlign": _regions,
    "GridSample": _grid,
    "Slice": _cut,
    "Pad": _padded,
    "Resize": _resized,
    "Gather": _same,
}
