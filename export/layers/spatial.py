"""Where a tensor keeps the positions of the image: two axes of a map, or one axis of tokens.

A convolution's output has rows and columns on axes of their own; a transformer lays them out along one axis, perhaps
behind a class token. Which axis is which follows from the table of rules, :mod:`portable_cam.export.layers.derive`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.axes import Part
from portable_cam.export.layers.relation import Relation


@dataclass(frozen=True)
class SpatialAxes:
    """The axes of a tensor.

    Attributes:
        batch: The axis of the images.
        axes: The axes of rows and columns, or the one axis of the tokens.
        size: Rows and columns; None where they are known only at run time.
        source: For rows and for columns a tensor that has them on an axis of their own, and which: for run time.
        prefix: How many tokens stand before those of the image (class, distillation, register tokens); -1 where that
            is not known yet, as behind a class token that was expanded to an open batch.
        suffix: How many stand behind them.
        features: Whether the axes left are channels; what an attention compares two sequences by has cells or words
            there.
        relations: Where rows and where columns look at in the image; None where that is not known, as of what a
            person declared.
        columns_first: The tokens go down the columns, not along the rows.
        entries: What the entries of the axis of images are, outer to inner, where they are views of images; empty where
            each is an image as a whole.
    """

    batch: int
    axes: tuple[int, ...]
    size: tuple[int | None, int | None]
    source: tuple[tuple[ir.Value, int], tuple[ir.Value, int]] | None
    prefix: int = 0
    suffix: int = 0
    features: bool = True
    relations: tuple[Relation | None, Relation | None] = (None, None)
    columns_first: bool = False
    entries: Part = ()

    @property
    def several(self) -> bool:
        """Its entries are views, of which an image may have several."""
        return any(digit.kind == "view" for digit in self.entries)

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

    def token(self, place: int) -> int:
        """Which of the image's tokens stands at a place of the map, counted along its rows."""
        rows, columns = self.size
        if not self.columns_first or rows is None or columns is None:
            return place
        return place % columns * rows + place // columns

    @property
    def layout(self) -> str:
        """``NCHW``, ``NHWC``, ``NTC`` or another order of these letters; T stands for tokens."""
        letters = {self.batch: "N", **dict(zip(self.axes, "T" if self.tokens else "HW", strict=True))}
        return "".join(letters.get(axis, "C") for axis in range(len(self.axes) + 2))

    @property
    def channels(self) -> int:
        """The axis of the channels, of a tensor that :func:`is_feature_map` says yes to."""
        return next(axis for axis in range(len(self.axes) + 2) if axis != self.batch and axis not in self.axes)


#: The spatial of tensors, of those that they are known of.
KnownAxes: TypeAlias = dict[ir.Value, SpatialAxes]


def is_feature_map(value: ir.Value, spatial: SpatialAxes | None) -> bool:
    """Whether the tensor has nothing but images, channels and more than one row and column of spatial."""
    dims = known_dims(value)
    if spatial is None or dims is None or len(dims) != len(spatial.axes) + 2:
        return False
    return not {0, 1} & set(spatial.size) and spatial.prefix >= 0 and spatial.features


def map_dims(value: ir.Value, spatial: SpatialAxes) -> list[int | None]:
    """(N, C, h, w) of the tensor brought to a map."""
    dims = known_dims(value)
    assert dims is not None
    return [dims[spatial.batch], dims[spatial.channels], *spatial.size]


def to_map(b: Builder, value: ir.Value, like: ir.Value, spatial: SpatialAxes) -> ir.Value:
    """An activation, or its gradient, as a map (N, C, h, w); tokens that are none of the image's are left out.

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
        value = _unflattened(b, value, spatial)
    value.shape = ir.Shape(map_dims(like, spatial))
    return value


def _unflattened(b: Builder, value: ir.Value, spatial: SpatialAxes) -> ir.Value:
    """(N, C, T) -> (N, C, h, w)."""
    order = (1, 0) if spatial.columns_first else (0, 1)
    if None in spatial.size:
        assert spatial.source is not None  # only sizes of the graph's own are open
        dims = [b.dim(*spatial.source[i]) for i in order]
        value = b.op("Reshape", value, b.op("Concat", b.ints([0, 0]), *dims, axis=0))
    else:
        value = b.reshape(value, [0, 0, *(size for i in order if (size := spatial.size[i]) is not None)])
    return b.op("Transpose", value, perm=[0, 1, 3, 2]) if spatial.columns_first else value
