"""What positions may count in where they are no pixels of the image: an axis whose parts look at different places, as
a rolled one has them, or a view: rows and columns that were cut out of the image, mirrored, turned or warped.

A rule that moves windows over positions need not know: they keep counting in the frame. Who puts a map back goes from
frame to frame until the image is reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from portable_cam.export.layers.axes import Axis, Position, Source, part_size, positions
from portable_cam.export.layers.relation import Frame, Relation, Size


@dataclass(frozen=True)
class Pieces(Frame):
    """One axis of parts behind one another, each of so many entries, which look at different places or at none."""

    pieces: tuple[tuple[int, Relation | None], ...]

    def spans(self) -> Iterator[tuple[int, int, Relation]]:
        """The first entry, the number of entries and the relation of each part that looks at something."""
        begin = 0
        for count, relation in self.pieces:
            if relation is not None:
                yield begin, count, relation
            begin += count


def rolled(axis: Axis) -> Position | None:
    """The positions of an axis of several parts, counted from its front; None if some part is neither positions along
    one and the same spatial axis of the image nor without any."""
    pieces: list[tuple[int, Relation | None]] = []
    spatial: set[int] = set()
    for part in axis if len(axis) > 1 else ():
        found, size = positions(part), part_size(part)
        if size is None or any(digit.kind not in {"position", "extra", "channel"} for digit in part):
            return None
        if found is not None and len(found) == 1 and not isinstance(found[0].relation.frame, View):
            pieces.append((size, found[0].relation))
            spatial.add(found[0].spatial)
        elif any(digit.kind == "position" for digit in part):
            return None
        else:
            pieces.append((size, None))
    if len(spatial) != 1:
        return None
    return Position(spatial.pop(), Relation(1, 0, 1, Pieces(tuple(pieces))), sum(size for size, _ in pieces))


def settled(relation: Relation, count: int) -> Relation:
    """The relation of so many entries in the pixels of the image, where all of them are centred within one part."""
    if not isinstance(relation.frame, Pieces):
        return relation
    centres = sorted((relation.at(0), relation.at(count - 1)))
    for begin, size, piece in relation.frame.spans():
        first, last = begin - 0.5, begin + size - 0.5
        if first - 1e-6 <= centres[0] and centres[1] <= last + 1e-6:
            reach = relation.span / 2 - 1e-6
            inside = first <= centres[0] - reach and centres[1] + reach <= last
            found = piece.through(relation.step, relation.offset - begin, relation.span - 1 if inside else float("inf"))
            return settled(found, count)
    return relation


@dataclass(frozen=True)
class Look:
    """Where an axis of a view lies: along which spatial axis of the image (or of another frame) its ``size`` entries
    look, and where each of them does."""

    spatial: int
    relation: Relation
    size: Size


@dataclass(frozen=True)
class View(Frame):
    """Rows and columns that count their own entries.

    Attributes:
        looks: For each view where its axes lie, in the order of ``spatial``.
        spatial: The spatial axes of the positions that count in it.
        axes: Of each which axis of the tensor it is where the view is made.
        size: Of each how many entries it has.
        source: The axis whose entries are the views; None where each image has one.
        batch: The axis of images at the node, which the relations of ``node`` follow.
        node: What reads at places that are known at run time: its entries look at entries of what it reads, and these
            lie as the only one of ``looks`` says. None where a view is its look alone.
        indexed: The node says of each view which image it is of.
    """

    looks: tuple[tuple[Look, ...], ...]
    spatial: tuple[int, ...]
    axes: tuple[int, ...]
    size: tuple[Size, ...]
    source: Source | None
    batch: Axis
    node: ir.Node | None = None
    indexed: bool = False

    def along(self, spatial: int) -> Relation:
        """The relation of the entries of one of its axes."""
        return Relation(1, 0, 1, self)

    @property
    def before(self) -> list[View]:
        """The views that this one was cut out of."""
        frames = {look.relation.frame for looks in self.looks for look in looks}
        return [frame for frame in frames if isinstance(frame, View)]

    def sources(self) -> set[Source]:
        """The axes of views that this one and those before it have."""
        own = {self.source} if self.source is not None else set()
        return own.union(*(view.sources() for view in self.before))

    def batches(self) -> list[Axis]:
        """The axes of entries that nodes say places for, of this view and of those before it."""
        own = [self.batch] if self.node is not None and not self.everywhere_the_same else []
        return own + [axis for view in self.before for axis in view.batches()]

    @property
    def everywhere_the_same(self) -> bool:
        """The node moves all entries alike."""
        return self.node is not None and self.node.op_type in {"Slice", "Pad", "Resize"}

    @property
    def name(self) -> str:
        """The operator that made it."""
        if self.source is not None:
            return self.source.why
        return "" if self.node is None else made_by(self.node)

    @property
    def has_index(self) -> bool:
        """Which image a view is of is said by a node, not by the order of the entries."""
        return self.indexed or any(view.has_index for view in self.before)


def made_by(node: ir.Node) -> str:
    """A node's operator and its first output, which no other node has."""
    return f"{node.op_type} '{node.outputs[0].name}'"


def seen_through(view: View, number: int, spatial: int, relation: Relation) -> tuple[int, Relation] | None:
    """What a relation that counts in one of the views is in the frame that this view lies in, and along which of its
    axes; None if that is known only at run time."""
    if view.node is not None or number >= len(view.looks):
        return None
    look = view.looks[number][view.spatial.index(spatial)]
    return look.spatial, replace(look.relation.through(relation.step, relation.offset, relation.span - 1))
