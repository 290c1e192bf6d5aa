"""Where a low-resolution map belongs in the image: stretched over it, or where the layer looks at.

``stretch`` puts the first and the last edge of the map on the image's edges, as the peers do. ``field`` puts cell i
where its receptive field is centred, at pixel ``step`` i + ``offset``. The two differ by about half a step in a network
that sees the whole image; where they differ by more (a crop, a padding or a flip inside the graph, many convolutions
without padding), ``stretch`` would show another place than the layer saw, and the map goes where the field is.
See ``docs/adr/0018-axes.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import LayerError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.layers.frames import Pieces, View
from portable_cam.export.layers.relation import Relation
from portable_cam.export.layers.spatial import SpatialAxes

Alignment: TypeAlias = Literal["stretch", "field"]


@dataclass(frozen=True)
class Along:
    """How the cells of one axis of a map lie along an axis of the image; sizes None where they are open.

    Attributes:
        relation: Where a cell's centre is; None for cells stretched over the whole axis.
        cells: How many cells.
        pixels: How many pixels.
    """

    relation: Relation | None
    cells: int | None
    pixels: int | None

    def moved(self) -> bool:
        """The layer looks at an extent whose edges are more than three quarters of a step and a pixel from those of
        the image, or it is mirrored. In a network whose convolutions pad the distance is about half a step."""
        if self.relation is None:
            return False
        if isinstance(self.relation.frame, Pieces):
            return True
        step, first = self.relation.step, self.relation.offset
        if step < 0:
            return True
        slack = 0.75 * step + 1
        if abs(first - step / 2 + 0.5) > slack:
            return True
        if self.cells is None or self.pixels is None:
            return self.cells is not None  # as many cells whatever the size of the image: a crop
        return abs(self.relation.at(self.cells - 0.5) - self.pixels + 0.5) > slack

    def aligned(self, alignment: Alignment) -> Along:
        """As it is where that is wanted or stretching would be wrong, else stretched."""
        as_it_is = self.relation is not None and (alignment == "field" or self.moved())
        return self if as_it_is else replace(self, relation=None)

    def index(self) -> Relation | None:
        """The relation, that of the stretched cells where there is none; None where it depends on open sizes."""
        if self.relation is not None:
            return self.relation
        if self.cells is None or self.pixels is None:
            return None
        step = self.pixels / self.cells
        return Relation(step, (step - 1) / 2, step)


@dataclass(frozen=True)
class Placement:
    """A map that lies where its layer looks at: along the rows and along the columns of the image."""

    rows: Along
    columns: Along

    @property
    def parts(self) -> bool:
        """Cells of one axis look at several parts of the image."""
        relations = (self.rows.relation, self.columns.relation)
        return any(relation is not None and isinstance(relation.frame, Pieces) for relation in relations)

    @property
    def unseen(self) -> float | None:
        """The share of the image's pixels that no cell reaches; None where sizes are open."""
        seen = 1.0
        for along in (self.rows, self.columns):
            relation = along.index()
            if relation is None or along.cells is None or along.pixels is None:
                return None
            seen *= float(np.mean(weights_of(relation, along.cells, along.pixels).any(1)))
        return 1 - seen


@dataclass(frozen=True)
class ViewPlacement:
    """A map of views: rows and columns of what was cut out of the image, once or several times, perhaps at places that
    are known at run time (:mod:`portable_cam.export.layers.view_maps`).

    Attributes:
        view: What the layer's rows and columns count in.
        axes: Of the layer.
        alignment: ``stretch`` lays the map over the whole view.
        image: Height and width of the image.
    """

    view: View
    axes: SpatialAxes
    alignment: Alignment
    image: tuple[int | None, ...]

    unseen: ClassVar[None] = None  # known at run time
    parts: ClassVar[bool] = True


def placement(axes: SpatialAxes, image: Sequence[int | None], alignment: Alignment) -> Placement | ViewPlacement | None:
    """Where the maps of a layer go; None where they are stretched over the image.

    Args:
        axes: Of the layer.
        image: Height and width of the image.
        alignment: ``stretch`` or ``field``.

    Raises:
        LayerError: Parts of the image that lie elsewhere cannot be put back while its size is open.
    """
    frames = [None if relation is None else relation.frame for relation in axes.relations]
    if isinstance(frames[0], View):
        return ViewPlacement(frames[0], axes, alignment, tuple(image))
    along = [Along(*given) for given in zip(axes.relations, axes.size, image, strict=True)]
    for frame, pixels in zip(frames, image, strict=True):
        if isinstance(frame, Pieces) and pixels is None:
            raise LayerError("the layer looks at parts of an image of open size: give the size of the images")
    rows, columns = (each.aligned(alignment) for each in along)
    return None if rows.relation is None and columns.relation is None else Placement(rows, columns)


def indices(relation: Relation, pixels: int, cells: int | None = None) -> list[NDArray[np.float64]]:
    """Which entry looks at each pixel, NaN where none does; one array, or for each part of an axis one. Of so many
    cells, each in the part that its centre lies in."""
    if not isinstance(relation.frame, Pieces):
        return [np.asarray((np.arange(pixels) - relation.offset) / relation.step, np.float64)]
    found = []
    for begin, count, piece in relation.frame.spans():
        for inner in indices(piece, pixels):
            inside = (inner >= -0.5 - 1e-6) & (inner < count - 0.5 - 1e-6)
            index = (np.where(inside, inner + begin, np.nan) - relation.offset) / relation.step
            at = np.arange(cells or 0) * relation.step + relation.offset
            mine = np.flatnonzero((at >= begin - 0.5) & (at < begin + count - 0.5))
            found.append(np.clip(index, mine[0], mine[-1]) if mine.size else index)
    return found


def weights_of(relation: Relation, cells: int, pixels: int, mode: str = "linear") -> NDArray[np.float64]:
    """What each pixel takes of each cell, (pixels, cells): of the two nearest by distance, of the first and the last
    alone within half a step behind them, nothing further out; the mean where several parts look at it."""
    taken, seen = np.zeros((pixels, cells)), np.zeros((pixels, 1))
    for index in indices(relation, pixels, cells):
        inside = ((index >= -0.5 - 1e-6) & (index <= cells - 0.5 + 1e-6))[:, None]
        held = np.clip(np.nan_to_num(index[:, None], nan=-1), 0, cells - 1)
        if mode == "nearest":
            held = np.floor(held + 0.5)
        taken += np.maximum(0, 1 - np.abs(held - np.arange(cells))) * inside
        seen += inside
    return np.asarray(taken / np.maximum(seen, 1), np.float64)


def place(b: Builder, maps: ir.Value, where: Placement, size: ir.Value, mode: str = "linear") -> ir.Value:
    """(N, K, h, w) -> (N, K, H, W), zero where no cell reaches.

    Args:
        b: Writes the nodes.
        maps: The low-resolution maps.
        where: Where they go.
        size: (H, W), int64.
        mode: ``linear`` or ``nearest``.
    """
    rows = _weights(b, maps, where.rows, size, 0, mode)
    columns = b.op("Transpose", _weights(b, maps, where.columns, size, 1, mode), perm=[1, 0])
    return b.op("MatMul", rows, b.op("MatMul", maps, columns))


def _weights(b: Builder, maps: ir.Value, along: Along, size: ir.Value, axis: int, mode: str) -> ir.Value:
    """As :func:`weights_of`, computed at run time where sizes are open."""
    dtype, relation = maps.dtype, along.index()
    assert dtype is not None
    if relation is not None and along.cells is not None and along.pixels is not None:
        return b.constant(weights_of(relation, along.cells, along.pixels, mode), dtype)
    cells = b.op("Squeeze", b.op("Shape", maps, start=2 + axis, end=3 + axis), b.ints([0]))
    pixels = b.op("Gather", size, b.ints(axis), axis=0)
    last = b.op("Sub", b.op("Cast", cells, to=dtype), 1)
    pixel = b.op("Unsqueeze", b.op("Cast", b.op("Range", b.ints(0), pixels, b.ints(1)), to=dtype), b.ints([1]))
    cell = b.op("Cast", b.op("Range", b.ints(0), cells, b.ints(1)), to=dtype)
    if relation is None:
        ratio = b.op("Div", b.op("Cast", cells, to=dtype), b.op("Cast", pixels, to=dtype))
        index = b.op("Sub", b.op("Mul", b.op("Add", pixel, 0.5), ratio), 0.5)
    else:
        index = b.op("Div", b.op("Sub", pixel, relation.offset), relation.step)
    held = b.op("Max", b.op("Min", index, last), 0)
    if mode == "nearest":
        held = b.op("Floor", b.op("Add", held, 0.5))
    taken = _tent(b, held, cell)
    inside = b.op("And", b.op("GreaterOrEqual", index, -0.5), b.op("LessOrEqual", index, b.op("Add", last, 0.5)))
    return b.op("Mul", taken, b.op("Cast", inside, to=dtype))


def _tent(b: Builder, held: ir.Value, cell: ir.Value) -> ir.Value:
    """max(0, 1 - |held - cell|)."""
    distance = b.op("Abs", b.op("Sub", held, cell))
    return b.op("Relu", b.op("Add", b.op("Neg", distance), 1))
