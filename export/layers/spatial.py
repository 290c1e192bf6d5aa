"""Where a tensor keeps the places of the picture: two axes of a map, or one axis of tokens.

A convolution's output has rows and columns on axes of their own; a transformer lays them out along one axis, perhaps
behind a class token. Which axis is which, and how many rows and columns the tokens came from, is read from the graph:
:mod:`portable_cam.export.layers.trace` follows the axes from the picture through every node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import known_dims


@dataclass(frozen=True)
class SpatialAxes:
    """The axes of a tensor.

    Attributes:
        batch: The axis of the images.
        axes: The axes of rows and columns, or the one axis of the tokens.
        size: Rows and columns; None where they are known only at run time.
        source: A tensor that has rows and columns on axes of their own, and these axes: for run time.
        prefix: How many tokens stand before those of the picture (class, distillation, register tokens); -1 where that
            is not known yet, as behind a class token that was expanded to an open batch.
        suffix: How many stand behind them.
        features: Whether the axis left is one of channels; what an attention compares two sequences by has cells or
            words there.
        guess: Why rows and columns are what they are, where they could not be read from the graph.
    """

    batch: int
    axes: tuple[int, ...]
    size: tuple[int | None, int | None]
    source: tuple[ir.Value, int, int] | None
    prefix: int = 0
    suffix: int = 0
    features: bool = True
    guess: str | None = None

    @property
    def tokens(self) -> bool:
        return len(self.axes) == 1

    @property
    def count(self) -> int | None:
        """How many tokens there are, of all kinds; None if that is known only at run time."""
        rows, columns = self.size
        if rows is None or columns is None or self.prefix < 0:
            return None
        return self.prefix + rows * columns + self.suffix

    @property
    def layout(self) -> str:
        """``NCHW``, ``NHWC``, ``NTC`` or another order of these letters; T stands for tokens."""
        letters = {self.batch: "N", **dict(zip(self.axes, "T" if self.tokens else "HW", strict=True))}
        return "".join(letters.get(axis, "C") for axis in range(len(self.axes) + 2))

    @property
    def channels(self) -> int:
        """The axis of the channels, of a tensor that :func:`is_feature_map` says yes to."""
        return next(axis for axis in range(len(self.axes) + 2) if axis != self.batch and axis not in self.axes)


#: The places of tensors, of those that they are known of.
KnownAxes: TypeAlias = dict[ir.Value, SpatialAxes]


def map_of(value: ir.Value) -> SpatialAxes | None:
    """(N, C, h, w) as it is."""
    dims = known_dims(value)
    if dims is None or len(dims) != 4:
        return None
    return SpatialAxes(0, (2, 3), (dims[2], dims[3]), (value, 2, 3))


def is_feature_map(value: ir.Value, places: SpatialAxes | None) -> bool:
    """Whether the tensor has nothing but images, channels and more than one row and column of places."""
    dims = known_dims(value)
    if places is None or dims is None or len(dims) != len(places.axes) + 2:
        return False
    return not {0, 1} & set(places.size) and places.prefix >= 0 and places.features


def map_dims(value: ir.Value, places: SpatialAxes) -> list[int | None]:
    """(N, C, h, w) of the tensor brought to a map."""
    dims = known_dims(value)
    assert dims is not None
    return [dims[places.batch], dims[places.channels], *places.size]


def to_map(b: Builder, value: ir.Value, like: ir.Value, places: SpatialAxes) -> ir.Value:
    """An activation, or its gradient, as a map (N, C, h, w); tokens that are none of the picture's are left out.

    Args:
        b: Writes the nodes.
        value: In the shape of ``like``.
        like: The activation.
        places: Of ``like``.
    """
    order = [places.batch, places.channels, *places.axes]
    if order == [0, 1, 2, 3]:
        return value
    if places.prefix or places.suffix:
        end = -places.suffix if places.suffix else 2**62
        value = b.op("Slice", value, b.ints([places.prefix]), b.ints([end]), b.ints(places.axes))
    value = b.op("Transpose", value, perm=order)
    if places.tokens:
        rows, columns = places.size
        if rows is not None and columns is not None:
            value = b.reshape(value, [0, 0, rows, columns])
        else:
            assert places.source is not None  # only sizes of the graph's own are open
            source, *axes = places.source
            value = b.op("Reshape", value, b.op("Concat", b.ints([0, 0]), *(b.dim(source, a) for a in axes), axis=0))
    value.shape = ir.Shape(map_dims(like, places))
    return value


def guess_axes(value: ir.Value, picture: tuple[int | None, int | None]) -> SpatialAxes | None:
    """Rows and columns of (N, T, C) from nothing but T and the picture's size: in the proportions of the picture, or
    square if its size is open, behind as few other tokens as possible. None if no such numbers exist."""
    dims = known_dims(value)
    if dims is None or len(dims) != 3 or dims[1] is None:
        return None
    height, width = (size or 1 for size in picture)
    for before in (0, 1, 2, 5):  # a class token; a distillation token beside it; four registers beside it
        count = dims[1] - before
        rows = round((max(count, 0) * height / width) ** 0.5)
        if rows < 2 or count % rows or rows * width != count // rows * height:
            continue
        behind = f", behind {before} of another kind" if before else ""
        guess = f"its {count} tokens are taken for {rows} x {count // rows}, the proportions of the picture{behind}"
        return SpatialAxes(0, (1,), (rows, count // rows), None, before, guess=guess)
    return None
