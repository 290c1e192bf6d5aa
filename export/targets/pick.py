"""One entry of each row, by an index that is known only at run time.

The entry is selected by comparing positions, and not gathered: the gradient is then a selection, too, where that of
GatherElements is ScatterElements, which several runtimes lack (``docs/runtimes.md``).
"""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.shapes import infer_shapes
from portable_cam.export.graph.values import dtype_of, rank_of, static_dim

_LONGEST = 4096  # of the positions that are stored; more are computed when the file is loaded


def pick(b: Builder, rows: ir.Value, index: ir.Value) -> ir.Value:
    """The entry ``index`` of each row: (N, M, ...), int64 (N,) -> (N, ...). Whatever the other entries are, NaN
    included, is not seen; where the index is not one of 0 to M - 1, the result is zero."""
    if rows.shape is None:  # of nodes that a target of one's own has just written
        infer_shapes([node for node in b.graph if any(output.shape is None for output in node.outputs)])
    trailing = rank_of(rows) - 2
    name_dims(b, rows)
    at = b.op("Equal", b.op("Unsqueeze", index, b.ints([1])), positions_along(b, rows, 1))
    if trailing:
        at = b.op("Unsqueeze", at, b.ints(range(2, 2 + trailing)))
    only = b.op("Where", at, rows, b.constant(0, dtype_of(rows)))
    only.shape = rows.shape
    return b.op("ReduceSum", only, b.ints([1]), keepdims=0)


def positions_along(b: Builder, value: ir.Value, axis: int) -> ir.Value:
    """0, 1, 2 ... along an axis: int64, a vector."""
    size = static_dim(value, axis)
    if size is not None and size <= _LONGEST:
        return b.ints(range(size))
    length = b.ints(size) if size is not None else b.op("Squeeze", b.dim(value, axis), b.ints([0]))
    return b.op("Range", b.ints(0), length, b.ints(1))


def name_dims(b: Builder, value: ir.Value) -> None:
    """Give names to the dimensions that have none: two without one are not known to be equal, and a gradient through
    a selection of the tensor would be summed over axes found at run time."""
    if value.shape is not None:
        dims = [d if isinstance(d, int) or d.value is not None else b.fresh("size") for d in value.shape.dims]
        value.shape = ir.Shape(dims)
