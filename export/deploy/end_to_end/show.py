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
    palette: uint8 (257, 3), RGB: the colours of 0, 1/255, ... 1, and that of what is no number.
    opacities: float32 (257,): how opaque each of them is.
    opacity: The greatest of the first 256, by which a user may choose another.
    gray: Whether the photo below is grey.
    """

    palette: NDArray[np.uint8]
    opacities: NDArray[np.float32]
    opacity: float
    gray: bool


#: ITU-R 601 luma as Pillow computes it, in whole numbers of 1 / 65536: every sum is exact in float32.
_LUMA = (19595, 38470, 7471)


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
    table = b.constant(colors.palette, ir.DataType.FLOAT)
    index = b.op("Where", unknown, b.ints(256), b.op("Cast", steps, to=int(ir.DataType.INT64)))
    colours = b.op("Gather", table, index, axis=0)
    pixels = b.op("Transpose", view.pixels, perm=[1, 2, 0])
    if colors.gray:
        weights = b.constant(np.reshape(_LUMA, (3, 1)), ir.DataType.FLOAT)
        sums = b.op("Add", b.op("MatMul", pixels, weights), 32768)
        pixels = b.op("Floor", b.op("Div", sums, 65536))
    rising = b.constant(colors.opacities / colors.opacity, ir.DataType.FLOAT)
    known = b.op("Mul", b.op("Gather", rising, index, axis=0), opacity)
    # what is no number must be seen, whatever the opacity
    weight = b.op("Where", unknown, b.op("Max", opacity, b.constant(0.5, ir.DataType.FLOAT)), known)
    weight = b.op("Unsqueeze", weight, b.ints([-1]))
    rest = b.op("Sub", b.constant(1, ir.DataType.FLOAT), weight)
    mixed = b.op("Round", b.op("Add", b.op("Mul", pixels, rest), b.op("Mul", colours, weight)))
    four = b.op("Pad", mixed, b.ints([0, 0, 0, 0, 0, 0, 0, 1]), b.constant(255, ir.DataType.FLOAT))
    channels = b.op("Shape", photo, start=2, end=3)
    shown = b.op("Slice", four, b.ints([0]), channels, b.ints([3]))
    return b.op("Cast", shown, to=int(ir.DataType.UINT8))
