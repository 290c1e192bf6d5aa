# SPDX-License-Identifier: Apache-2.0
"""From heat maps to overlays on the photo, in the graph: what :mod:`portable_cam.image.colormap` does in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.deploy.end_to_end.resample import lay_matrix
from portable_cam.export.deploy.end_to_end.view import View
from portable_cam.export.graph.builder import Builder


@dataclass(frozen=True)
class Colors:
    """Attributes:
    palette: uint8 (256, 3), RGB: the colours of a map's values from 0 to 1.
    not_a_number: The colour of what is none.
    """

    palette: NDArray[np.uint8]
    not_a_number: tuple[int, int, int]


def write_maps_on_photo(b: Builder, maps: ir.Value, view: View) -> ir.Value:
    """Maps (K, h, w) at the input's size over the whole photo, (K, H, W); zero where the model saw nothing."""
    down, across = (lay_matrix(b, a.photo, a.scaled, a.first, a.size) for a in (view.rows, view.columns))
    return b.op("MatMul", b.op("MatMul", down, maps), b.op("Transpose", across, perm=[1, 0]))


def write_overlay(
    b: Builder, maps: ir.Value, view: View, photo: ir.Value, opacity: ir.Value, colors: Colors
) -> ir.Value:
    """uint8 (K, H, W, 3 or 4): maps (K, H, W) of 0 to 1 over the photo, with as many channels as ``photo`` has."""
    unknown = b.op("IsNaN", maps)
    safe = b.op("Where", unknown, b.number(0, maps), maps)
    steps = b.op("Round", b.op("Mul", b.op("Min", b.op("Max", safe, 0), 1), 255))
    table = b.constant(np.concatenate([colors.palette, [colors.not_a_number]]), ir.DataType.FLOAT)
    index = b.op("Where", unknown, b.ints(256), b.op("Cast", steps, to=int(ir.DataType.INT64)))
    colours = b.op("Gather", table, index, axis=0)
    pixels = b.op("Transpose", view.pixels, perm=[1, 2, 0])
    rest = b.op("Sub", b.constant(1, ir.DataType.FLOAT), opacity)
    mixed = b.op("Round", b.op("Add", b.op("Mul", pixels, rest), b.op("Mul", colours, opacity)))
    four = b.op("Pad", mixed, b.ints([0, 0, 0, 0, 0, 0, 0, 1]), b.constant(255, ir.DataType.FLOAT))
    channels = b.op("Shape", photo, start=2, end=3)
    shown = b.op("Slice", four, b.ints([0]), channels, b.ints([3]))
    return b.op("Cast", shown, to=int(ir.DataType.UINT8))
