"""What the axes of a tensor are: images, channels, positions along an axis of the input image.

An axis is a sequence of *parts* side by side (a class token before the patches), and a part an ordered product of
*digits*, outer to inner, as the digits of a number count its index: rows and columns flattened to tokens are one part
of two digits. A digit is a whole :class:`Source` (the rows that a convolution made), or the part of one that splitting
it gave (the rows of windows, and the rows within one), remembered with what it was split from, so that the inverse
Reshape restores it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal, TypeAlias

import onnx_ir as ir

from portable_cam.export.layers.relation import Relation, Size

Kind: TypeAlias = Literal["image", "view", "channel", "position", "extra", "given", "joined", "unknown"]

#: What the entries of a batch are.
BATCH: tuple[Kind, ...] = ("image", "view")


@dataclass(frozen=True)
class Source:
    """An axis as an operator made it.

    Attributes:
        kind: ``image``: one entry per image; ``view``: one per view of an image, as regions and mirror images are;
            ``channel``: mixes freely; ``position``: along a spatial axis of the input; ``extra``: not of the image, as
            class tokens; ``given``: of another input; ``joined``: several parts that a Reshape splits as one;
            ``unknown``.
        size: How many entries.
        spatial: Of positions: along which spatial axis of the input, 0 for rows.
        relation: Of positions.
        parts: Of what is joined.
        why: What is not known, and the operator that lost it; of views the operator that made them.
        origin: Of positions: a tensor with this axis on its own, and which of its axes; for sizes at run time.
    """

    kind: Kind
    size: Size
    spatial: int = -1
    relation: Relation | None = None
    parts: tuple[tuple[Digit, ...], ...] = ()
    why: str = ""
    origin: tuple[ir.Value, int] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Digit:
    """``size`` values of index // stride of a source."""

    source: Source
    size: Size
    stride: int = 1

    @property
    def kind(self) -> Kind:
        return self.source.kind

    @property
    def positional(self) -> bool:
        return self.kind in {"position", "joined"}

    @property
    def whole(self) -> bool:
        return self.stride == 1 and self.size == self.source.size

    @property
    def outermost(self) -> bool:
        """No digit of the same source stands further out."""
        whole = self.source.size
        if isinstance(whole, int) and isinstance(self.size, int):
            return self.size * self.stride >= whole
        return not isinstance(self.size, int) or self.size == whole

    @property
    def relation(self) -> Relation:
        """Of this digit alone, whatever the finer ones of its source are."""
        assert self.source.relation is not None
        return self.source.relation.through(self.stride, (self.stride - 1) / 2, self.stride - 1)


Part: TypeAlias = tuple[Digit, ...]
Axis: TypeAlias = tuple[Part, ...]

#: An axis of one entry that means nothing.
ONE: Axis = ((),)


@dataclass(frozen=True)
class Known:
    """What is known of a tensor: its axes, None if not even its rank; and along which spatial axes each of its entries
    depends on the whole image, as behind a gate or an attention."""

    axes: tuple[Axis, ...] | None
    wide: frozenset[int] = frozenset()


def axis_of(source: Source) -> Axis:
    """The axis that is this source alone."""
    return ((Digit(source, source.size),),)


def channels(size: Size) -> Axis:
    """A new axis of channels."""
    return axis_of(Source("channel", size))


def lost(size: Size, why: str) -> Axis:
    """An axis that is not known."""
    return axis_of(Source("unknown", size, why=why))


def why_lost(axis: Axis) -> str | None:
    """What lost an axis; None if it is known."""
    return next((digit.source.why for digit in digits_of(axis) if digit.kind == "unknown"), None)


def digits_of(axis: Axis) -> list[Digit]:
    """All digits of all parts, those inside joined sources included."""
    found: list[Digit] = []
    for digit in (digit for part in axis for digit in part):
        found += digits_of(digit.source.parts) if digit.kind == "joined" else [digit]
    return found


def scaled(size: Size, by: Fraction) -> Size:
    """A multiple of an open size, by name: ``H*3/4``."""
    if size is None or by == 1:
        return size
    if isinstance(size, int):
        return int(size * by)
    name, _, factor = size.partition("*")
    by *= Fraction(factor) if factor else 1
    return name if by == 1 else f"{name}*{by}"


def part_size(part: Part) -> int | None:
    """How many entries a part has; None if that is open."""
    sizes = [digit.size for digit in part]
    return math.prod(s for s in sizes if isinstance(s, int)) if all(isinstance(s, int) for s in sizes) else None


def size_of(axis: Axis) -> Size:
    """How many entries an axis has: a number, a multiple of an open size by name, or None."""
    if len(axis) == 1:
        names = [digit.size for digit in axis[0] if not isinstance(digit.size, int)]
        if len(names) == 1:
            return scaled(names[0], Fraction(math.prod(d.size for d in axis[0] if isinstance(d.size, int))))
    sizes = [part_size(part) for part in axis]
    return None if None in sizes else sum(s for s in sizes if s is not None)


def is_one(axis: Axis) -> bool:
    """One entry, and not of the axis of images."""
    return size_of(axis) == 1 and not any(digit.kind == "image" for digit in digits_of(axis))


def holds(axis: Axis, *kinds: Kind) -> bool:
    """Some digit is of one of these kinds."""
    return any(digit.kind in kinds for digit in digits_of(axis))


def free(axis: Axis) -> bool:
    """Nothing but channels, tokens that are not of the image, and other inputs."""
    return not holds(axis, *BATCH, "position", "unknown")


def sized(axis: Axis, size: Size) -> Axis:
    """The axis with the size that shape inference found, where its own is open."""
    if not isinstance(size, int) or size_of(axis) == size:
        return axis
    open_parts = [i for i, part in enumerate(axis) if part_size(part) is None]
    if len(open_parts) != 1:
        return axis
    (at,) = open_parts
    left = size - sum(part_size(part) or 0 for i, part in enumerate(axis) if i != at)
    part = axis[at]
    unsized = [i for i, digit in enumerate(part) if not isinstance(digit.size, int)]
    others = math.prod(d.size for d in part if isinstance(d.size, int))
    if len(unsized) != 1 or left <= 0 or left % others:
        return axis
    (i,) = unsized
    digit = replace(part[i], size=left // others)
    if part[i].whole:
        digit = replace(digit, source=replace(digit.source, size=digit.size))
    return (*axis[:at], (*part[:i], digit, *part[i + 1 :]), *axis[at + 1 :])


# -- positions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """Positions along one spatial axis of the input, on consecutive digits of a part; ``finer`` by how much through
    digits that have none."""

    spatial: int
    relation: Relation
    size: int | None
    origin: tuple[ir.Value, int] | None = None
    finer: int = 1


def positions(part: Part) -> list[Position] | None:
    """A part that is nothing but positions, one entry for each spatial axis in it, outer to inner; None otherwise.

    Digits without positions behind those of one spatial axis make it finer: what DepthToSpace takes from the channels,
    or what was repeated. Behind rows and columns they are several tokens at each place, as anchors are.
    """
    found: list[Position] = []
    for digit in part:
        if digit.kind == "position" and digit.outermost:
            size = digit.size if isinstance(digit.size, int) else None
            origin = digit.source.origin if digit.whole else None
            found.append(Position(digit.source.spatial, digit.relation, size, origin))
        elif found and digit.kind in {"channel", "extra"} and isinstance(digit.size, int):
            if len(found) > 1:
                return None
            last, r = found[-1], digit.size
            finer = last.relation.through(1 / r, -(r - 1) / (2 * r))
            found[-1] = Position(
                last.spatial, finer, None if last.size is None else last.size * r, finer=last.finer * r
            )
        else:
            return None
    return found


def position(axis: Axis) -> Position | None:
    """The positions along a spatial axis that an axis is; None if it is anything else."""
    if len(axis) != 1:
        return None
    found = positions(axis[0])
    return found[0] if found is not None and len(found) == 1 else None


# -- digits --------------------------------------------------------------------------------------------------------


def divided(size: Size, by: int) -> Size:
    """The size of the outer digit where a digit is split."""
    return size // by if isinstance(size, int) else scaled(size, Fraction(1, by))


def split_digit(digit: Digit, inner: int) -> tuple[Digit, Digit]:
    """Outer and inner digit."""
    return (
        Digit(digit.source, divided(digit.size, inner), digit.stride * inner),
        Digit(digit.source, inner, digit.stride),
    )


def merged(digits: Sequence[Digit]) -> Axis:
    """The axis that digits make, outer to inner: those that were split from one source joined again where they meet
    again."""
    out: list[Digit] = []
    for digit in digits:
        inner = digit
        if inner.size == 1 and inner.kind != "image":
            continue
        while out and (joined := _join(out[-1], inner)) is not None:
            out.pop()
            inner = joined
        out.append(inner)
    if len(out) == 1 and out[0].kind == "joined" and out[0].whole:
        return out[0].source.parts
    flat: list[Digit] = []
    for digit in out:
        single = digit.kind == "joined" and digit.whole and len(digit.source.parts) == 1
        flat += digit.source.parts[0] if single else (digit,)
    return (tuple(flat),) if flat == out else merged(flat)


def _join(outer: Digit, inner: Digit) -> Digit | None:
    if outer.source != inner.source or not isinstance(inner.size, int) or outer.stride != inner.stride * inner.size:
        return None
    if isinstance(outer.size, int):
        return Digit(outer.source, outer.size * inner.size, inner.stride)
    if outer.size != divided(outer.source.size, outer.stride):
        return None
    return Digit(outer.source, divided(outer.source.size, inner.stride), inner.stride)


def side_by_side(parts: Sequence[Part]) -> Axis:
    """The axis of parts behind one another, joined where one continues the other, as behind a roll and its inverse."""
    out: list[Part] = []
    for part in parts:
        last = out[-1] if out else None
        joined = None if last is None else _continued(last, part)
        if joined is None:
            out.append(part)
        else:
            out[-1] = joined
    return tuple(out)


def _continued(first: Part, second: Part) -> Part | None:
    if len(first) != 1 or len(second) != 1:
        return None
    (a,), (b,) = first, second
    if not isinstance(a.size, int) or not isinstance(b.size, int) or a.kind != b.kind or not (a.whole and b.whole):
        return None
    total = a.size + b.size
    if a.kind in {"extra", "channel"}:
        return (Digit(Source(a.kind, total), total),)
    left, right = a.source.relation, b.source.relation
    if a.kind != "position" or a.source.spatial != b.source.spatial or left is None or right is None:
        return None
    if left.frame != right.frame:
        return None
    if left.step != right.step or not math.isclose(left.offset + left.step * a.size, right.offset, abs_tol=1e-6):
        return None
    whole = Source("position", total, a.source.spatial, replace(left, span=max(left.span, right.span)))
    return (Digit(whole, total),)
