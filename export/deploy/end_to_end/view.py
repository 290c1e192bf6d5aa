# SPDX-License-Identifier: Apache-2.0
"""From a photo to the model's input, in the graph: what :mod:`portable_cam.image.preprocess` does in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.deploy.end_to_end.resample import resize
from portable_cam.export.graph.builder import Builder


@dataclass(frozen=True)
class PhotoInput:
    """How a photo becomes the model's input, as plain data; the fields are those of
    :class:`~portable_cam.image.preprocess.Preprocessing`.

    Attributes:
        size: (H, W) of the input.
        resize: ``stretch``, ``shortest+crop`` or ``letterbox``.
        resize_to: The shorter side before a crop.
        pad_value: What letterbox pads with.
        centered: Whether a letterbox lies in the middle.
        interpolation: Pillow's filter.
        color: ``rgb``, ``bgr`` or ``gray``.
        channels_last: The input is (1, H, W, C).
        values: (C, 256) in the input's type: what each brightness of a channel becomes.
    """

    size: tuple[int, int]
    resize: str
    resize_to: int | None
    pad_value: int
    centered: bool
    interpolation: str
    color: str
    channels_last: bool
    values: NDArray[np.generic]


@dataclass(frozen=True)
class Axis:
    """One axis of a photo and of the input: sizes of the photo, of the photo scaled, and where the input begins in
    that; scalars int64."""

    photo: ir.Value
    scaled: ir.Value
    first: ir.Value
    size: int


@dataclass(frozen=True)
class View:
    """A photo on its way: ``pixels`` float32 (3, H, W) of 0 to 255, laid on white; rows and columns; the input."""

    pixels: ir.Value
    rows: Axis
    columns: Axis
    input: ir.Value


def write_view(b: Builder, photo: ir.Value, how: PhotoInput) -> View:
    """Write the nodes from ``photo`` uint8 (H, W, 3 or 4) to the model's input."""
    pixels = _on_white(b, photo)
    sides = [b.op("Squeeze", b.op("Shape", photo, start=i, end=i + 1), b.ints([0])) for i in (0, 1)]
    rows, columns = _fit(b, sides, how)
    index = [b.op("Add", b.ints(range(axis.size)), axis.first) for axis in (rows, columns)]
    # along rows first, and to whole grey levels in between: as Pillow does it, but for photos that shrink much more in
    # height than in width, from its version 13 on
    kind = how.interpolation
    narrow = resize(b, pixels, index[1], columns.scaled, columns.photo, kind, rows=False)
    view = resize(b, narrow, index[0], rows.scaled, rows.photo, kind, rows=True)
    if how.resize == "letterbox":
        shown = [
            b.op("And", b.op("GreaterOrEqual", i, 0), b.op("Less", i, axis.scaled))
            for i, axis in zip(index, (rows, columns), strict=True)
        ]
        both = b.op("And", b.op("Unsqueeze", shown[0], b.ints([1])), shown[1])
        view = b.op("Where", both, view, b.number(how.pad_value, view))
    return View(pixels, rows, columns, _values(b, view, how))


def _on_white(b: Builder, photo: ir.Value) -> ir.Value:
    """(3, H, W), whatever is transparent laid on white."""
    planes = b.op("Transpose", photo, perm=[2, 0, 1])
    opaque = b.constant(255, ir.DataType.FLOAT)
    missing = b.op("Sub", b.ints([4]), b.op("Shape", planes, start=0, end=1))
    pads = b.op("Concat", b.ints([0, 0, 0]), missing, b.ints([0, 0]), axis=0)
    four = b.op("Pad", b.op("Cast", planes, to=int(ir.DataType.FLOAT)), pads, opaque)
    colours = b.op("Slice", four, b.ints([0]), b.ints([3]), b.ints([0]))
    opacity = b.op("Slice", four, b.ints([3]), b.ints([4]), b.ints([0]))
    white = b.op("Mul", b.op("Sub", opaque, opacity), 255)
    return _rounded(b, b.op("Div", b.op("Add", b.op("Mul", colours, opacity), white), 255))


def _rounded(b: Builder, value: ir.Value) -> ir.Value:
    """To whole grey levels of 0 to 255, as between two steps on bytes."""
    half = b.op("Floor", b.op("Add", value, 0.5))
    return b.op("Min", b.op("Max", half, 0), 255)


def _values(b: Builder, view: ir.Value, how: PhotoInput) -> ir.Value:
    """What the model's input holds for the pixels (3, h, w) of the view."""
    if how.color == "gray":  # ITU-R 601 in integers, as Pillow's convert("L")
        luma = b.constant(np.array([[19595, 38470, 7471]]), ir.DataType.INT64)
        whole = b.op("Cast", view, to=int(ir.DataType.INT64))
        weighted = b.op("Mul", whole, b.op("Reshape", luma, b.ints([3, 1, 1])))
        total = b.op("Add", b.op("ReduceSum", weighted, b.ints([0]), keepdims=1), 0x8000)
        index = b.op("Div", total, 1 << 16)
    else:
        order = [2, 1, 0] if how.color == "bgr" else [0, 1, 2]
        turned = b.op("Gather", view, b.ints(order), axis=0) if how.color == "bgr" else view
        index = b.op("Cast", turned, to=int(ir.DataType.INT64))
    channels = how.values.shape[0]
    starts = b.constant(256 * np.arange(channels).reshape(-1, 1, 1), ir.DataType.INT64)
    table = b.constant(how.values.reshape(-1), ir.DataType.from_numpy(how.values.dtype))
    values = b.op("Gather", table, b.op("Add", index, starts), axis=0)
    if how.channels_last:
        values = b.op("Transpose", values, perm=[1, 2, 0])
    return b.op("Unsqueeze", values, b.ints([0]))


def _fit(b: Builder, sides: list[ir.Value], how: PhotoInput) -> tuple[Axis, Axis]:
    """Where the input lies in the photo: :func:`portable_cam.image.geometry.fit` in integers."""
    (H, W), (h, w) = sides, how.size
    zero = b.ints(0)
    if how.resize == "stretch":
        return Axis(H, b.ints(h), zero, h), Axis(W, b.ints(w), zero, w)
    if how.resize == "letterbox":
        tall = b.op("LessOrEqual", b.op("Mul", W, h), b.op("Mul", H, w))  # its height fills the input
        scaled = [
            b.op("Where", tall, b.ints(h), b.op("Div", b.op("Mul", H, w), W)),
            b.op("Where", tall, b.op("Div", b.op("Mul", W, h), H), b.ints(w)),
        ]
        scaled = [b.op("Max", each, 1) for each in scaled]
        spare = [b.op("Div", b.op("Sub", b.ints(n), each), 2) for n, each in zip((h, w), scaled, strict=True)]
        first = [b.op("Neg", each) for each in spare] if how.centered else [zero, zero]
        return Axis(H, scaled[0], first[0], h), Axis(W, scaled[1], first[1], w)
    short = b.ints(min(h, w) if how.resize_to is None else how.resize_to)
    portrait = b.op("Greater", H, W)
    scaled = [
        b.op("Where", portrait, b.op("Div", b.op("Mul", short, H), W), short),
        b.op("Where", portrait, short, b.op("Div", b.op("Mul", short, W), H)),
    ]
    # a wide or tall crop that would not fit makes the photo as much larger as it takes
    little = b.op("Or", b.op("Less", scaled[0], h), b.op("Less", scaled[1], w))
    tall = b.op("GreaterOrEqual", b.op("Mul", W, h), b.op("Mul", H, w))  # height decides
    larger = [b.op("Where", tall, b.ints(h), _ratio(b, H, w, W)), b.op("Where", tall, _ratio(b, W, h, H), b.ints(w))]
    larger = [b.op("Max", each, n) for each, n in zip(larger, (h, w), strict=True)]
    scaled = [b.op("Where", little, big, own) for big, own in zip(larger, scaled, strict=True)]
    first = [_half(b, b.op("Sub", each, n)) for each, n in zip(scaled, (h, w), strict=True)]
    return Axis(H, scaled[0], first[0], h), Axis(W, scaled[1], first[1], w)


def _ratio(b: Builder, value: ir.Value, numerator: int, denominator: ir.Value) -> ir.Value:
    """``value * numerator / denominator``, rounded."""
    twice = b.op("Add", b.op("Mul", value, 2 * numerator), denominator)
    return b.op("Div", twice, b.op("Mul", denominator, 2))


def _half(b: Builder, value: ir.Value) -> ir.Value:
    """Half of a number from 0 on, a half rounded to even."""
    below = b.op("Div", value, 2)
    odd = b.op("Sub", value, b.op("Mul", below, 2))
    below_is_odd = b.op("Sub", below, b.op("Mul", b.op("Div", below, 2), 2))
    return b.op("Add", below, b.op("Mul", odd, below_is_odd))
