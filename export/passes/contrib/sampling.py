"""Regions of images, resized."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.passes.contrib.registry import Contrib, decomposes

_FLOAT = ir.DataType.FLOAT


@decomposes("CropAndResize")
def crop_and_resize(c: Contrib) -> ir.Value:
    """GridSample of the images that the boxes are of, by AffineGrids from corner to corner; the extrapolation value
    where a place lies outside the image."""
    b, x, boxes = c.b, c.input(0), c.input(1)
    images = b.op("Gather", x, c.input(2), axis=0)
    crop = b.op("Cast", c.input(3), to=int(ir.DataType.INT64))
    size = b.op("Concat", b.op("Shape", images, end=2), crop, axis=0)
    corners, count = b.op("Unsqueeze", boxes, b.ints([2])), b.op("Cast", crop, to=int(_FLOAT))
    # a grid of n places lies from the first one's middle to the last one's: (n - 1) / n of the box that it is made of
    wider = b.op("Div", count, b.op("Max", b.op("Sub", count, 1.0), 1.0))
    rows = []
    for axis in (1, 0):  # x before y
        first, last = (b.op("Slice", corners, b.ints([k]), b.ints([k + 1]), b.ints([1])) for k in (axis, axis + 2))
        length = b.op("Mul", b.op("Sub", last, first), b.op("Gather", wider, b.ints(axis), axis=0))
        middle = b.op("Sub", b.op("Add", first, last), 1.0)
        none = b.op("Mul", middle, 0.0)
        rows.append(b.op("Concat", *((length, none) if axis == 1 else (none, length)), middle, axis=2))
    grid = b.op("AffineGrid", b.op("Concat", *rows, axis=1), size, align_corners=0)
    mode = "nearest" if c.str_attr("mode", "bilinear") == "nearest" else "linear"
    sampled = b.op("GridSample", images, grid, align_corners=1, padding_mode="border", mode=mode)
    outside = b.number(c.float_attr("extrapolation_value", 0.0), sampled)
    return b.op("Where", _inside(b, grid), sampled, outside)


def _inside(b: Builder, grid: ir.Value) -> ir.Value:
    """(R, 1, rows, columns): a place lies in its image."""
    far = b.op("ReduceMax", b.op("Abs", grid), b.ints([3]), keepdims=0)
    return b.op("Unsqueeze", b.op("LessOrEqual", far, 1.0 + 4 * float(np.finfo(np.float32).eps)), b.ints([1]))
