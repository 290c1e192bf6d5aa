"""Whether a grid of sampling places is an affine map of its rows and columns, as a spatial transformer makes it.

The structure of the graph says which grids are worth a view; that a grid of the moment is affine is proven again by its
numbers (:mod:`portable_cam.export.layers.node_places`).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of, known_dims
from portable_cam.export.layers.axes import Known
from portable_cam.export.layers.axis_rules.sizes import computed_array

_FEW = 12  # numbers for each image: an affine map has six
_DEPTH = 32
_MOVES = frozenset({"Cast", "Expand", "Identity", "Reshape", "ReduceSum", "Squeeze", "Tile", "Transpose", "Unsqueeze"})
_SUMS = frozenset({"Add", "Concat", "Sub", "Sum"})
_PRODUCTS = frozenset({"Div", "Einsum", "Gemm", "MatMul", "Mul"})


def is_affine(grid: ir.Value | None, known: dict[ir.Value, Known], depth: int = 0) -> bool:
    """Whether a grid, or what one is computed from, is an affine function of row and column, with few numbers for each
    image that say which."""
    if grid is None or depth > _DEPTH:
        return False
    table = constant_of(grid)
    if table is not None:
        return _linear(table)
    if depth and _few(grid):
        return True
    node = grid.producer()
    if node is None or node.domain not in ONNX_DOMAINS:
        return False
    if node.op_type in {"AffineGrid", "Range"}:
        return True
    inputs = [value for value in node.inputs if value is not None]
    if node.op_type in _MOVES:
        return is_affine(inputs[0], known, depth + 1)
    if node.op_type in _SUMS:
        return all(is_affine(value, known, depth + 1) for value in inputs)
    if node.op_type in _PRODUCTS:
        wide = [value for value in inputs if not _few(value)]
        return len(wide) <= 1 and all(is_affine(value, known, depth + 1) for value in wide)
    return computed_array(grid, known) is not None


def _few(value: ir.Value) -> bool:
    """A few numbers for each image, whatever the image is."""
    dims = known_dims(value)
    rest = [d for d in dims[1:] if d is not None] if dims is not None else None
    constant = constant_of(value)
    if constant is not None:
        return constant.size <= _FEW
    return rest is not None and dims is not None and None not in dims[1:] and math.prod(rest) <= _FEW


def _linear(table: NDArray[np.generic]) -> bool:
    """Its numbers change by equal steps along each axis of more than three entries, that of flattened rows and columns
    by equal steps within equal rows."""
    values = table.astype(np.float64)
    slack = 1e-4 * max(float(np.abs(values).max(initial=0)), 1e-9)
    return all(n <= 3 or _steps(np.moveaxis(values, axis, 0), slack) for axis, n in enumerate(values.shape))


def _steps(values: NDArray[np.float64], slack: float) -> bool:
    bends = np.abs(np.diff(values, 2, axis=0)).reshape(len(values) - 2, -1).max(1) > slack
    if not bends.any():
        return True
    row = int(np.argmax(bends)) + 2  # the first bend is at the end of the first row
    if len(values) % row:
        return False
    rows = values.reshape(-1, row, *values.shape[1:])
    return all(bool((np.abs(np.diff(rows, 2, axis=axis)) <= slack).all()) for axis in (0, 1))
