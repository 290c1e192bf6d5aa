"""The spatial axes of a tensor: rows and columns of a map, or one axis of tokens.

A convolution's output has rows and columns on axes of their own; a transformer lays them out along one axis, perhaps
behind a class token. Which axis is which, and how many rows and columns the tokens came from, is read from the graph:
:mod:`portable_cam.export.layers.trace` follows the axes from the image through every node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from portable_cam.errors import ModelError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import dims_of, known_dims


@dataclass(frozen=True)
class SpatialAxes:
    """The axes of a tensor.

    Attributes:
        batch: The axis of the images.
        axes: The axes of rows and columns, or the one axis of the tokens.
        size: Rows and columns; None where they are known only at run time.
        source: A tensor that has rows and columns on axes of their own, and these axes: for run time.
        prefix: How many tokens precede those of the image (class, distillation, register tokens); -1 where that
            is not known yet, as behind a class token that was expanded to an open batch.
        suffix: How many follow them.
        features: Whether the remaining axis is one of channels; that of an attention's weights has cells or words.
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
        """``NCHW``, ``NHWC``, ``NTC`` or another order of these letters; T is tokens."""
        letters = {self.batch: "N", **dict(zip(self.axes, "T" if self.tokens else "HW", strict=True))}
        return "".join(letters.get(axis, "C") for axis in range(len(self.axes) + 2))

    @property
    def channels(self) -> int:
        """The axis of the channels, for a tensor that is a feature map (:func:`is_feature_map`)."""
        return next(axis for axis in range(len(self.axes) + 2) if axis != self.batch and axis not in self.axes)


#: The spatial axes of the tensors that have known ones.
KnownAxes: TypeAlias = dict[ir.Value, SpatialAxes]


def map_of(value: ir.Value) -> SpatialAxes | None:
    """The spatial axes of (N, C, h, w); None for another rank."""
    dims = known_dims(value)
    if dims is None or len(dims) != 4:
        return None
    return SpatialAxes(0, (2, 3), (dims[2], dims[3]), (value, 2, 3))


def is_feature_map(value: ir.Value, spatial: SpatialAxes | None) -> bool:
    """Whether the tensor has images, channels and more than one row and column, and no other axes."""
    dims = known_dims(value)
    if spatial is None or dims is None or len(dims) != len(spatial.axes) + 2:
        return False
    return not {0, 1} & set(spatial.size) and spatial.prefix >= 0 and spatial.features


def map_dims(value: ir.Value, spatial: SpatialAxes) -> list[int | None]:
    """The dimensions (N, C, h, w) of the tensor as a map."""
    dims = dims_of(value)
    return [dims[spatial.batch], dims[spatial.channels], *spatial.size]


def to_map(b: Builder, value: ir.Value, like: ir.Value, spatial: SpatialAxes) -> ir.Value:
    """An activation, or its gradient, as a map (N, C, h, w); tokens other than the image's are left out.

    Args:
        b: Writes the nodes.
        value: In the shape of ``like``.
        like: The activation.
        spatial: Of ``like``.
    """
    order = [spatial.batch, spatial.channels, *spatial.axes]
    if order == [0, 1, 2, 3]:
        return value
    if spatial.prefix or spatial.suffix:
        end = -spatial.suffix if spatial.suffix else 2**62
        value = b.op("Slice", value, b.ints([spatial.prefix]), b.ints([end]), b.ints(spatial.axes))
    value = b.op("Transpose", value, perm=order)
    if spatial.tokens:
        rows, columns = spatial.size
        if rows is not None and columns is not None:
            value = b.reshape(value, [0, 0, rows, columns])
        else:
            if spatial.source is None:
                raise ModelError(f"how many rows and columns the tokens of '{like.name}' have is not known")
            source, *axes = spatial.source
            value = b.op("Reshape", value, b.op("Concat", b.ints([0, 0]), *(b.dim(source, a) for a in axes), axis=0))
    value.shape = ir.Shape(map_dims(like, spatial))
    return value


def guess_axes(value: ir.Value, image_size: tuple[int | None, int | None]) -> SpatialAxes | None:
    """Rows and columns of (N, T, C) from nothing but T and the image's size: in the proportions of the image, or
    square if its size is open, after as few other tokens as possible. None if no such numbers exist."""
    dims = known_dims(value)
    if dims is None or len(dims) != 3 or dims[1] is None:
        return None
    height, width = (size or 1 for size in image_size)
    for before in (0, 1, 2, 5):  # a class token; a distillation token beside it; four registers beside it
        count = dims[1] - before
        rows = round((max(count, 0) * height / width) ** 0.5)
        if rows < 2 or count % rows or rows * width != count // rows * height:
            continue
        behind = f", behind {before} of another kind" if before else ""
        guess = f"its {count} tokens are taken for {rows} x {count // rows}, the proportions of the image{behind}"
        return SpatialAxes(0, (1,), (rows, count // rows), None, before, guess=guess)
    return None
