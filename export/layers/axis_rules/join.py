"""What an axis is that several operands have, broadcast to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from portable_cam.export.layers.axes import (
    BATCH,
    ONE,
    Axis,
    Digit,
    Part,
    Source,
    axis_of,
    channels,
    free,
    holds,
    is_one,
    merged,
    position,
    side_by_side,
    size_of,
    sized,
)
from portable_cam.export.layers.axis_rules.at import At
from portable_cam.export.layers.axis_rules.sizes import sizes_of
from portable_cam.export.layers.relation import Size


def made_of_all(
    at: At, rank: int, out: Sequence[Size], skip: int = -1, inputs: Sequence[int] | None = None
) -> list[Axis]:
    """The axes of an output whose entries are made of the same entries of all inputs, aligned at the last axis."""
    found: list[Axis] = [ONE] * rank
    for index in range(len(at.node.inputs)) if inputs is None else inputs:
        value = at.node.inputs[index]
        if value is None:
            continue
        dims = sizes_of(value, at.known)
        axes = at.axes(index)
        if axes is None and value in at.known:
            return [at.lost(size, "the rank of an input is not known") for size in out]
        if dims is None:
            continue
        if axes is None:
            axes = tuple(ONE if size == 1 else axis_of(Source("extra", size)) for size in dims)
        lead = rank - len(axes)
        for i, axis in enumerate(axes):
            if i + lead != skip and i + lead >= 0:
                found[i + lead] = joined(at, found[i + lead], axis)
    return [sized(axis, size) for axis, size in zip(found, out, strict=True)]


def joined(at: At, a: Axis, b: Axis) -> Axis:
    """The axis of a result whose entry i is made of entry i of both."""
    if is_one(a) or is_one(b):
        return b if is_one(a) and (a == ONE or not is_one(b)) else a
    size_a, size_b = size_of(a), size_of(b)
    a, b = sized(a, size_b), sized(b, size_a)
    if a == b:
        return a
    size = size_a if isinstance(size_a, int) else size_b
    if free(a) and free(b):
        return a if holds(b, "extra", "given") and not holds(a, "extra", "given") else _free(a, b, size)
    if holds(a, "unknown") or holds(b, "unknown"):
        return _beside_unknown(a, b) if holds(a, "unknown") else _beside_unknown(b, a)
    if free(a) or free(b):
        return b if free(a) else a
    image = [axis for axis in (a, b) if holds(axis, "image")]
    if len(image) == 1 and size_of(image[0]) == 1:  # one image, broadcast along something else
        other = b if image[0] is a else a
        return merged([*image[0][0], *other[0]]) if len(other) == 1 else other
    found = _hull(a, b)
    if found is None:
        first, second = position(a), position(b)
        if first is not None and second is not None and first.spatial == second.spatial:
            relation = first.relation.hull(second.relation, size)
            if relation is not None and (None in {first.size, second.size} or first.size == second.size):
                return axis_of(Source("position", size, first.spatial, relation))
    return at.lost(size, "it joins two views of the image that do not lie over each other") if found is None else found


def _beside_unknown(lost: Axis, other: Axis) -> Axis:
    """What is known of one operand holds for the result, as in the residual sum behind a branch that is not known: its
    entries look there, and elsewhere (:func:`unknown_views`). An axis of a constant says nothing."""
    return lost if holds(other, "unknown") or not holds(other, *BATCH, "position", "channel") else other


def unknown_views(at: At) -> frozenset[int]:
    """All spatial axes if an operand is not known, which may look at any part of the image."""
    axes = [axis for i in range(len(at.node.inputs)) for axis in at.axes(i) or ()]
    return frozenset(range(4)) if any(holds(axis, "unknown") for axis in axes) else frozenset()


def _free(a: Axis, b: Axis, size: Size) -> Axis:
    return b if holds(a, "extra", "given") and not holds(b, "extra", "given") else channels(size)


def _hull(a: Axis, b: Axis) -> Axis | None:
    """Two axes of the same structure, their positions joined; None if they differ in it."""
    if len(a) != len(b):
        return None
    parts: list[Part] = []
    for left, right in zip(a, b, strict=True):
        if len(left) != len(right):
            return None
        digits = [_hull_of_digits(p, q) for p, q in zip(left, right, strict=True)]
        if None in digits:
            return None
        parts.append(tuple(d for d in digits if d is not None))
    return side_by_side(parts)


def _hull_of_digits(p: Digit, q: Digit) -> Digit | None:
    if p == q:
        return p
    same = p.size == q.size or not (isinstance(p.size, int) and isinstance(q.size, int))
    if p.kind != q.kind or p.stride != q.stride or not same:
        return p if same and not p.positional and not q.positional and not {*BATCH} & {p.kind, q.kind} else None
    if p.kind == "image":
        return p if p.whole and q.whole else None
    if p.kind != "position":
        return p if p.kind != "joined" else _hull_of_joined(p, q)
    left, right = p.source.relation, q.source.relation
    if p.source.spatial != q.source.spatial or left is None or right is None:
        return None
    size = p.size if isinstance(p.size, int) else q.size
    whole = p.source.size if isinstance(p.source.size, int) else q.source.size
    relation = left.hull(right, whole)
    if relation is None:
        return None
    source = Source("position", whole, p.source.spatial, relation, origin=p.source.origin or q.source.origin)
    return Digit(source, size, p.stride)


def _hull_of_joined(p: Digit, q: Digit) -> Digit | None:
    found = _hull(p.source.parts, q.source.parts)
    return None if found is None else replace(p, source=replace(p.source, parts=found))
