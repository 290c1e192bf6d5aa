"""Follows the places of the picture through a graph, from the input to the scores.

For each operator that moves, merges, splits, cuts or joins axes there is a function that says where they are
afterwards. Any other operator keeps them if its output has the rank and the sizes of its input. What cannot be followed
has no places: attention within windows, for one, until a residual sum brings them back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import onnx_ir as ir

from portable_cam.export.graph.values import constant_of, known_dims, reads
from portable_cam.export.layers.axis_groups import groups, named_sizes
from portable_cam.export.layers.class_tokens import tokens_read
from portable_cam.export.layers.spatial import KnownAxes, SpatialAxes, map_of

_Follow: TypeAlias = Callable[[ir.Node, KnownAxes], SpatialAxes | None]

_MAPS = frozenset(
    """
    Conv ConvInteger ConvTranspose MaxPool AveragePool LpPool DepthToSpace SpaceToDepth LRN BatchNormalization
    InstanceNormalization GroupNormalization QLinearConv DeformConv GridSample RoiAlign MaxUnpool
    """.split()
)
_GLOBAL = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "Shape", "Size", "NonZero"})


def trace_axes(graph: ir.Graph, image: ir.Value, channel_axis: int) -> KnownAxes:
    """The places of every tensor that they can be followed to.

    Args:
        graph: A normalised graph.
        image: Its picture, of rank 4.
        channel_axis: 1 for (N, C, H, W), 3 for (N, H, W, C).
    """
    known: KnownAxes = {}
    hidden: dict[ir.Value, _Hidden] = {}
    start = _map(image, (2, 3) if channel_axis == 1 else (1, 2))
    if start is not None:
        known[image] = start
    varying = set(graph.inputs)
    for node in graph:
        if any(value in varying for value in reads(node)):
            varying.update(node.outputs)
        if node.op_type == "Split":
            _split(node, known)
            continue
        if not node.outputs or node.op_type in _GLOBAL:
            continue
        if node.op_type in _MAPS:
            found = _of_map(node, known)
        elif any(value in known for value in node.inputs):
            found = _FOLLOW.get(node.op_type, _same)(node, known)
        else:
            found = _unhide(node, hidden)
        found = None if found is None else _checked(node.outputs[0], found)
        if found is not None and node.op_type == "MatMul":
            # a product with weights makes channels, a product of two sequences compares them
            found = replace(found, features=not all(value in varying for value in node.inputs))
        if found is not None:
            known[node.outputs[0]] = found
        else:
            _hide(node, known, hidden)
    return known


#: What moves or mixes axes without changing the shape.
_AXES_MOVE = frozenset({"Transpose", "Reshape", "MatMul", "Gemm", "Einsum", "Gather", "Slice", "Concat", "Split"})


# -- one function per way of moving axes ---------------------------------------------------------------------------


def _of_map(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    """Operators whose spatial axes stand behind the channels by definition."""
    value = node.inputs[0]
    before = known.get(value) if value is not None else None
    if before is not None and before.axes != (2, 3):
        return _same(node, known) if node.op_type.endswith("Normalization") else None
    return map_of(node.outputs[0])


def _same(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    """The places of the input whose sizes the output has; aligned at the last axis, as broadcasting does."""
    dims = known_dims(node.outputs[0])
    if dims is None:
        return None
    for value in node.inputs:
        places, have = (known.get(value), known_dims(value)) if value is not None else (None, None)
        if places is None or have is None or len(have) > len(dims):
            continue
        lead = len(dims) - len(have)
        # shape inference may have lost a number of tokens that is known here
        counts = {places.count} if places.tokens else set()
        if places.prefix < 0 or all(dims[axis + lead] in {have[axis], *counts} for axis in places.axes):
            return _moved(node.outputs[0], places, {axis: axis + lead for axis in (places.batch, *places.axes)})
    return None


def _resized(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    """Rows and columns keep their axes and change in number; tokens do not."""
    first = node.inputs[0]
    places = known.get(first) if first is not None else None
    if places is None or places.tokens:
        return _same(node, known)
    return _map(node.outputs[0], places.axes, places.batch)


def _transpose(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    places, dims = _first(node, known)
    if places is None or dims is None:
        return None
    perm = list(node.attributes.get_ints("perm", list(reversed(range(len(dims))))))
    return _moved(node.outputs[0], places, {old: new for new, old in enumerate(perm)})


def _reshape(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    places, before = _first(node, known)
    after = known_dims(node.outputs[0])
    if places is None or before is None or after is None:
        return None
    axes: dict[int, int] = {}
    for old, new in groups(named_sizes(node.inputs[0]), named_sizes(node.outputs[0])):
        if len(old) == 1 and len(new) == 1:
            axes[old[0]] = new[0]
        elif tuple(old) == places.axes and len(new) == 1 and not places.tokens:
            merged = SpatialAxes(0, (new[0],), places.size, places.source)
            return replace(merged, batch=axes[places.batch]) if places.batch in axes else None
        elif tuple(old) == places.axes and len(new) == 2 and not places.prefix and not places.suffix:
            if places.batch not in axes or (None not in places.size and [after[a] for a in new] != list(places.size)):
                return None
            return _map(node.outputs[0], (new[0], new[1]), axes[places.batch])
    return _moved(node.outputs[0], places, axes)


def _concat(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    out = known_dims(node.outputs[0])
    if out is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(out)
    at = [i for i, value in enumerate(node.inputs) if value is not None and value in known]
    places = known[node.inputs[at[0]]]  # type: ignore[index]
    if axis == places.batch:
        return None
    if axis not in places.axes:
        return places
    if not places.tokens:  # a roll, or two maps side by side
        return _map(node.outputs[0], places.axes, places.batch)
    sizes = [(known_dims(value) or [None] * len(out))[axis] for value in node.inputs if value is not None]
    before, behind = sizes[: at[0]], sizes[at[0] + 1 :]
    if len(at) > 1 or None in behind:
        return None
    return replace(
        places,
        prefix=-1 if None in before or places.prefix < 0 else places.prefix + sum(d or 0 for d in before),
        suffix=places.suffix + sum(d or 0 for d in behind),
    )


def _slice(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    places, dims = _first(node, known)
    if places is None or dims is None:
        return None
    if not places.tokens:  # also by steps, as in patch merging: rows and columns stay on their axes
        return _map(node.outputs[0], places.axes, places.batch)
    read = tokens_read(node, places)
    return _cut(places, dims[places.axes[0]], *read) if read is not None else None


def _gather(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    """One index drops its axis, several keep it."""
    places, dims = _first(node, known)
    indices = known_dims(node.inputs[1]) if node.inputs[1] is not None else None
    if places is None or dims is None or indices is None or node.inputs[0] not in known:
        return None
    axis = node.attributes.get_int("axis", 0) % len(dims)
    if axis in {*places.axes, places.batch}:
        return None
    grown = len(indices) - 1
    return _moved(node.outputs[0], places, {a: a + grown * (a > axis) for a in range(len(dims)) if a != axis})


def _reduce(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    places, dims = _first(node, known)
    axes = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if places is None or dims is None or axes is None:
        return None
    gone = {int(a) % len(dims) for a in axes.reshape(-1)}
    if gone & {*places.axes, places.batch}:
        return None
    if node.attributes.get_int("keepdims", 1):
        return places
    return _moved(node.outputs[0], places, {a: a - sum(g < a for g in gone) for a in range(len(dims)) if a not in gone})


def _matmul(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    """Rows come from the first factor, columns from the second; leading axes from either."""
    out = known_dims(node.outputs[0])
    for index, value in enumerate(node.inputs[:2]):
        places, dims = (known.get(value), known_dims(value)) if value is not None else (None, None)
        if places is None or dims is None or out is None:
            continue
        lost = len(dims) - 1 if index == 0 else len(dims) - 2
        if lost in {*places.axes, places.batch}:
            continue
        lead = len(out) - len(dims)
        return _moved(node.outputs[0], places, {axis: axis + lead for axis in range(len(dims))})
    return None


def _einsum(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    terms, _, result = str(node.attributes.get_string("equation", "")).replace(" ", "").partition("->")
    for value, term in zip(node.inputs, terms.split(","), strict=False):
        places = known.get(value) if value is not None else None
        if places is None or "." in term:
            continue
        if all(term[axis] in result for axis in (places.batch, *places.axes)):
            return _moved(node.outputs[0], places, {a: result.index(c) for a, c in enumerate(term) if c in result})
    return None


def _split(node: ir.Node, known: KnownAxes) -> None:
    places, dims = _first(node, known)
    if places is None or dims is None:
        return
    axis, begin = node.attributes.get_int("axis", 0) % len(dims), 0
    for output in node.outputs:
        out = known_dims(output)
        part: SpatialAxes | None = places
        if axis == places.batch or out is None:
            part = None
        elif axis in places.axes and not places.tokens:
            part = _map(output, places.axes, places.batch)
        elif axis in places.axes:
            size = out[axis]
            part = None if size is None else _cut(places, dims[axis], begin, begin + size)
            begin += size or 0
        part = None if part is None else _checked(output, part)
        if part is not None:
            known[output] = part


_FOLLOW: dict[str, _Follow] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("Resize", "Upsample", "Pad"), _resized),
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd"), _reduce
    ),
    "Concat": _concat, "Einsum": _einsum, "Gather": _gather, "MatMul": _matmul, "Slice": _slice,
    "Transpose": _transpose,
}  # fmt: skip


@dataclass(frozen=True)
class _Hidden:
    """A tensor whose places a Reshape merged with other axes, as group normalisation does: they are back where another
    Reshape restores the sizes. ``rows``: of matrices made of all images and tokens, whose last axis may change."""

    places: SpatialAxes
    dims: list[int | None]
    rows: bool


def _hide(node: ir.Node, known: KnownAxes, hidden: dict[ir.Value, _Hidden]) -> None:
    """Remember what a Reshape hid, through nodes that keep its shape."""
    output, first = node.outputs[0], node.inputs[0] if node.inputs else None
    dims, after = (known_dims(first), known_dims(output)) if first is not None else (None, None)
    if first is None or dims is None or after is None:
        return
    if first in known and node.op_type in {"Reshape", "Flatten"}:
        hidden[output] = _Hidden(known[first], dims, len(after) == 2 and after[-1] == dims[-1])
        return
    for value in node.inputs:
        before = hidden.get(value) if value is not None else None
        if before is None:
            continue
        have = known_dims(value)
        product = node.op_type in {"MatMul", "Gemm"} and before.rows and value is first
        if product or (node.op_type not in _AXES_MOVE and have is not None and have == after):
            hidden[output] = before


def _unhide(node: ir.Node, hidden: dict[ir.Value, _Hidden]) -> SpatialAxes | None:
    before = hidden.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
    after = known_dims(node.outputs[0]) if node.outputs else None
    if node.op_type != "Reshape" or before is None or after is None or len(after) != len(before.dims):
        return None
    end = len(after) - 1 if before.rows else len(after)
    if before.dims[:end] != after[:end] or (before.rows and before.places.axes[-1] == end):
        return None
    return _moved(node.outputs[0], before.places, {axis: axis for axis in range(len(after))})


# -- pieces --------------------------------------------------------------------------------------------------------


def _first(node: ir.Node, known: KnownAxes) -> tuple[SpatialAxes | None, list[int | None] | None]:
    value = node.inputs[0]
    return (None, None) if value is None else (known.get(value), known_dims(value))


def _map(value: ir.Value, axes: tuple[int, ...], batch: int = 0) -> SpatialAxes | None:
    """Rows and columns on axes of their own, of which ``value`` itself knows the sizes."""
    dims = known_dims(value)
    if dims is None or max(*axes, batch) >= len(dims):
        return None
    return SpatialAxes(batch, axes, (dims[axes[0]], dims[axes[1]]), (value, axes[0], axes[1]))


def _moved(value: ir.Value, places: SpatialAxes, axes: dict[int, int]) -> SpatialAxes | None:
    """The same places on other axes."""
    if any(axis not in axes for axis in (places.batch, *places.axes)):
        return None
    moved = tuple(axes[axis] for axis in places.axes)
    if not places.tokens:
        return _map(value, moved, axes[places.batch])
    return replace(places, batch=axes[places.batch], axes=moved)


def _checked(value: ir.Value, places: SpatialAxes) -> SpatialAxes | None:
    """The places, the number of tokens before the picture's worked out; None if they do not fit the tensor's sizes."""
    dims = known_dims(value)
    if dims is None or max(*places.axes, places.batch) >= len(dims):
        return None
    if not places.tokens or dims[places.axes[0]] is None:
        return places
    total = dims[places.axes[0]]
    rows, columns = places.size
    if places.prefix < 0 and total is not None and rows is not None and columns is not None:
        places = replace(places, prefix=total - rows * columns - places.suffix)
        return places if places.prefix >= 0 else None
    return places if places.count in {None, total} else None


def _cut(places: SpatialAxes, count: int | None, begin: int, end: int) -> SpatialAxes | None:
    """The tokens from ``begin`` to ``end``, if those of the picture are all among them."""
    if not 0 <= begin <= places.prefix:
        return None
    count = places.count if count is None else count
    cut = 0 if end >= 2**31 else None if count is None else max(0, count - end)
    if cut is None or cut > places.suffix:
        return None
    return replace(places, prefix=places.prefix - begin, suffix=places.suffix - cut)
