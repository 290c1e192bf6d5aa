"""Puts the maps of views back into their images: each where the view was cut out, then all views of an image summed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import input_of
from portable_cam.export.layers.axes import BATCH, Digit, Part, digits_of
from portable_cam.export.layers.frames import Look, View
from portable_cam.export.layers.node_places import INDEX, matrix, node_matrix
from portable_cam.export.layers.placement import Along, ViewPlacement
from portable_cam.export.layers.relation import Relation, Size

_SINGULAR = 1e-9
_FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class PlacedViews:
    """Where the cells of a layer's E views lie, as far as it is written into the graph.

    Attributes:
        matrices: (E, 3, 3), from a cell (row, column, 1) to a pixel; NaN where the places follow no affine map.
        grid: (E, H, W, 2): for each pixel where in the map of a view it looks, as GridSample takes it.
        inside: (E, 1, H, W): 1 where the view looks at the pixel, else 0.
        entries: What the E entries are, outer to inner.
        owner: (N, E): 1 for the views of an image, else 0, where a node says that; None where the order does.
    """

    matrices: ir.Value
    grid: ir.Value
    inside: ir.Value
    entries: Part
    owner: ir.Value | None

    @property
    def several(self) -> int | None:
        """How many views each image has, if it is more than one; None where a node says which are whose."""
        if self.owner is not None:
            return None
        return math.prod(d.size for d in self.entries if d.kind == "view" and isinstance(d.size, int))

    def place(self, b: Builder, maps: ir.Value) -> ir.Value:
        """(E, K, h, w) -> (N, K, H, W), zero where no view looks."""
        sampled = b.op("GridSample", maps, self.grid, mode="linear", padding_mode="border", align_corners=1)
        return self._of_images(b, b.op("Mul", sampled, self.inside))

    def unseen(self, b: Builder) -> ir.Value:
        """(N,): the share of each image that no view looks at."""
        seen = b.op("ReduceMean", b.op("Min", self._of_images(b, self.inside), 1.0), b.ints([1, 2, 3]), keepdims=0)
        return b.op("Add", b.op("Neg", seen), 1.0)

    def places(self, b: Builder) -> ir.Value:
        """(N, V, 2, 3), from a cell (row, column, 1) to a pixel's row and column; (E, 2, 3) where a node says which
        views are of which image."""
        return self.by_image(b, b.op("Slice", self.matrices, b.ints([0]), b.ints([2]), b.ints([1])), rank=3)

    def by_image(self, b: Builder, values: ir.Value, rank: int, behind: int = 1) -> ir.Value:
        """(E, ...) of this rank -> (N, V, ...), V as axis ``behind``; as it is where a node says which views are
        whose."""
        if self.several is None:
            return values
        count = len(self.entries)
        image = next(i for i, digit in enumerate(self.entries) if digit.kind == "image")
        rest = range(count, count + rank - 1)
        order = [image, *rest[: behind - 1], *(i for i in range(count) if i != image), *rest[behind - 1 :]]
        turned = b.op("Transpose", self._split(b, values), perm=order)
        shape = [b.ints([0] * behind + [self.several]), b.op("Shape", values, start=behind)]
        return b.op("Reshape", turned, b.op("Concat", *shape, axis=0))

    def _split(self, b: Builder, values: ir.Value) -> ir.Value:
        sizes = [digit.size if isinstance(digit.size, int) else -1 for digit in self.entries]
        return b.op("Reshape", values, b.op("Concat", b.ints(sizes), b.op("Shape", values, start=1), axis=0))

    def _of_images(self, b: Builder, wide: ir.Value) -> ir.Value:
        """(E, K, H, W) -> (N, K, H, W), summed."""
        if self.owner is not None:
            flat = b.op("MatMul", self.owner, b.op("Flatten", wide, axis=1))
            return b.op("Reshape", flat, b.op("Concat", b.ints([-1]), b.op("Shape", wide, start=1), axis=0))
        views = [i for i, digit in enumerate(self.entries) if digit.kind == "view"]
        return b.op("ReduceSum", self._split(b, wide), b.ints(views), keepdims=0) if views else wide


def place_views(b: Builder, where: ViewPlacement, maps: ir.Value, size: ir.Value, image: ir.Value) -> PlacedViews:
    """Write where the views of a layer lie.

    Args:
        b: Writes the nodes.
        where: The layer's view.
        maps: Of the layer, (E, C, h, w).
        size: (H, W) of the image, int64.
        image: The image.
    """
    axes = where.axes
    entries = axes.entries
    cells = [
        _cell(Along(relation, count, _pixels(where.view, spatial)), where)
        for spatial, (relation, count) in enumerate(zip(axes.relations, axes.size, strict=True))
    ]
    of_cells = matrix(b, *(term for s, r in enumerate(cells) for term in ((r.step, s, s), (r.offset, s, 2))))
    whole = b.op("MatMul", _to_image(b, where.view, where, entries), of_cells)
    leading = b.op("Concat", b.op("Shape", maps, end=1), b.ints([3, 3]), axis=0)
    if len(entries) > 1:
        sizes = [d.size if isinstance(d.size, int) else 1 for d in entries]
        open_ = [i for i, d in enumerate(entries) if not isinstance(d.size, int)]
        wanted = [b.ints([n]) for n in sizes]
        for i in open_:
            wanted[i] = b.op("Div", b.op("Shape", maps, end=1), b.ints([math.prod(sizes)]))
        whole = b.op("Expand", whole, b.op("Concat", *wanted, b.ints([3, 3]), axis=0))
        whole = b.op("Reshape", whole, leading)
    else:
        whole = b.op("Expand", whole, leading)
    whole.shape = ir.Shape([None, 3, 3])
    grid, inside = _looked_at(b, whole, maps, size)
    return PlacedViews(whole, grid, inside, entries, _owner(b, where.view, image))


def _pixels(view: View, spatial: int) -> int | None:
    size = view.size[view.spatial.index(spatial)]
    return size if isinstance(size, int) else None


def _cell(along: Along, where: ViewPlacement) -> Relation:
    """Where cells lie in what they count in."""
    found = along.aligned(where.alignment).index() or along.relation
    assert found is not None  # views have relations
    return found


# -- from a view to the image ----------------------------------------------------------------------------------------


def _to_image(b: Builder, view: View, where: ViewPlacement, entries: Part) -> ir.Value:
    """(..., 3, 3) with an axis for each of the entries, of size 1 where all are alike: from a view to the image."""
    looks = [_through(b, _look(b, view, look, where), look, where, entries) for look in view.looks]
    if view.node is not None:
        return b.op("MatMul", looks[0], _for_entries(b, view, entries))
    at = next(i for i, digit in enumerate(entries) if digit.source == view.source)
    return looks[0] if len(looks) == 1 else b.op("Concat", *looks, axis=at)


def _look(b: Builder, view: View, looks: Sequence[Look], where: ViewPlacement) -> ir.Value:
    """(1, 3, 3): from the entries of a view's axes to what these count in."""
    terms = []
    for spatial, look in zip(view.spatial, looks, strict=True):
        frame = look.relation.frame
        pixels: Size = where.image[look.spatial] if frame is None else None
        if isinstance(frame, View):
            pixels = _pixels(frame, look.spatial)
        size = look.size if isinstance(look.size, int) else None
        found = _cell(Along(look.relation, size, pixels if isinstance(pixels, int) else None), where)
        terms += [(found.step, look.spatial, spatial), (found.offset, look.spatial, 2)]
    return matrix(b, *terms)


def _through(b: Builder, own: ir.Value, looks: Sequence[Look], where: ViewPlacement, entries: Part) -> ir.Value:
    """From there on to the image, with an axis for each of the entries."""
    own = b.op("Reshape", own, b.ints([*[1] * len(entries), 3, 3]))
    frame = looks[0].relation.frame
    return b.op("MatMul", _to_image(b, frame, where, entries), own) if isinstance(frame, View) else own


def _for_entries(b: Builder, view: View, entries: Part) -> ir.Value:
    """What the node of a view says, with an axis for each of the entries."""
    found = node_matrix(b, view)
    if view.everywhere_the_same:
        return b.op("Reshape", found, b.ints([*[1] * len(entries), 3, 3]))
    own = [d for d in digits_of(view.batch) if d.kind in BATCH]
    split = b.op("Reshape", found, b.ints([*(d.size if isinstance(d.size, int) else -1 for d in own), 3, 3]))
    order = sorted(range(len(own)), key=lambda i: _place_of(own[i], entries))
    turned = b.op("Transpose", split, perm=[*order, len(own), len(own) + 1])
    missing = [i for i, digit in enumerate(entries) if digit.source not in {d.source for d in own}]
    return b.op("Unsqueeze", turned, b.ints(missing)) if missing else turned


def _place_of(digit: Digit, entries: Part) -> int:
    return next(i for i, entry in enumerate(entries) if entry.source == digit.source)


def _owner(b: Builder, view: View, image: ir.Value) -> ir.Value | None:
    """(N, E): which views are of which image, where a node says that."""
    if view.indexed:
        assert view.node is not None
        index = b.op("Cast", input_of(view.node, INDEX[view.node.op_type]), to=int(ir.DataType.INT64))
        count = b.dim(image, 0)
        index = b.op("Where", b.op("Less", index, 0), b.op("Add", index, count), index)
        numbers = b.op("Range", b.ints(0), b.op("Squeeze", count), b.ints(1))
        return b.op("Cast", b.op("Equal", b.reshape(numbers, [-1, 1]), b.reshape(index, [1, -1])), to=int(_FLOAT))
    return next((found for before in view.before if (found := _owner(b, before, image)) is not None), None)


# -- from pixels to cells --------------------------------------------------------------------------------------------


def _looked_at(b: Builder, matrices: ir.Value, maps: ir.Value, size: ir.Value) -> tuple[ir.Value, ir.Value]:
    """For each pixel the place in the map, and whether it is inside: the matrices (E, 3, 3) inverted."""
    (a, c, top), (d, e, left) = ([_entry(b, matrices, i, j) for j in range(3)] for i in (0, 1))
    area = b.op("Sub", b.op("Mul", a, e), b.op("Mul", c, d))
    row, column = (_pixel(b, size, axis, start) for axis, start in ((0, top), (1, left)))
    found: list[ir.Value] = []
    within: ir.Value | None = None
    for axis, (one, other) in enumerate(((e, c), (a, d))):
        mine, theirs = (row, column) if axis == 0 else (column, row)
        index = b.op("Div", b.op("Sub", b.op("Mul", one, mine), b.op("Mul", other, theirs)), area)  # (E, H, W)
        last = b.op("Cast", b.op("Sub", b.dim(maps, 2 + axis), 1), to=int(_FLOAT))
        enough = b.op("GreaterOrEqual", index, -0.5 - 1e-5)
        inside = b.op("And", enough, b.op("LessOrEqual", index, b.op("Add", last, 0.5 + 1e-5)))
        within = inside if within is None else b.op("And", within, inside)
        held = b.op("Max", b.op("Min", b.op("Where", inside, index, b.number(0, index)), last), 0.0)
        place = b.op("Sub", b.op("Mul", b.op("Div", held, b.op("Max", last, 1.0)), 2.0), 1.0)
        found.insert(0, b.op("Unsqueeze", place, b.ints([3])))  # x before y
    assert within is not None
    within = b.op("And", within, b.op("Greater", b.op("Abs", area), _SINGULAR))
    inside = b.op("Unsqueeze", b.op("Cast", within, to=int(_FLOAT)), b.ints([1]))
    return b.op("Concat", *found, axis=3), inside


def _entry(b: Builder, matrices: ir.Value, row: int, column: int) -> ir.Value:
    """(E, 1, 1)."""
    return b.op("Slice", matrices, b.ints([row, column]), b.ints([row + 1, column + 1]), b.ints([1, 2]))


def _pixel(b: Builder, size: ir.Value, axis: int, start: ir.Value) -> ir.Value:
    """(E, H, 1) or (E, 1, W): the distance of pixels from the place of the first cell."""
    count = b.op("Gather", size, b.ints(axis), axis=0)
    numbers = b.op("Cast", b.op("Range", b.ints(0), count, b.ints(1)), to=int(_FLOAT))
    return b.op("Sub", b.reshape(numbers, [1, -1, 1] if axis == 0 else [1, 1, -1]), start)
