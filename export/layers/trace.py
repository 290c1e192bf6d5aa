"""Follows the spatial axes of the image through a graph, from the input to the scores.

For each operator that moves, merges, splits, cuts or joins axes there is a function that finds them in its output. Any
other operator keeps them if its output has the rank and the sizes of its input. A tensor whose axes cannot be followed
has none: attention within windows, for one, until a residual sum brings them back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import onnx_ir as ir

from portable_cam.export.graph.values import constant_of, input_of, known_dims, reads
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
    """The spatial axes of every tensor to which they can be followed.

    Args:
        graph: A normalised graph.
        image: Its input of rank 4.
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
    """Operators whose spatial axes follow the channels by definition."""
    value = node.inputs[0]
    before = known.get(value) if value is not None else None
    if before is not None and before.axes != (2, 3):
        return _same(node, known) if node.op_type.endswith("Normalization") else None
    return map_of(node.outputs[0])


def _same(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    """Those of the input whose sizes the output has; aligned at the last axis, as broadcasting does."""
    dims = known_dims(node.outputs[0])
    if dims is None:
        return None
    for value in node.inputs:
        spatial, have = (known.get(value), known_dims(value)) if value is not None else (None, None)
        if spatial is None or have is None or len(have) > len(dims):
            continue
        lead = len(dims) - len(have)
        # shape inference may have lost a number of tokens that is known here
        counts = {spatial.count} if spatial.tokens else set()
        if spatial.prefix < 0 or all(dims[axis + lead] in {have[axis], *counts} for axis in spatial.axes):
            return _moved(node.outputs[0], spatial, {axis: axis + lead for axis in (spatial.batch, *spatial.axes)})
    return None


def _resized(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    """Rows and columns keep their axes and change in number; tokens do not."""
    first = node.inputs[0]
    spatial = known.get(first) if first is not None else None
    if spatial is None or spatial.tokens:
        return _same(node, known)
    return _map(node.outputs[0], spatial.axes, spatial.batch)


def _transpose(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    spatial, dims = _first(node, known)
    if spatial is None or dims is None:
        return None
    perm = list(node.attributes.get_ints("perm", list(reversed(range(len(dims))))))
    return _moved(node.outputs[0], spatial, {old: new for new, old in enumerate(perm)})


def _reshape(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    spatial, before = _first(node, known)
    after = known_dims(node.outputs[0])
    if spatial is None or before is None or after is None:
        return None
    axes: dict[int, int] = {}
    for old, new in groups(named_sizes(input_of(node, 0)), named_sizes(node.outputs[0])):
        if len(old) == 1 and len(new) == 1:
            axes[old[0]] = new[0]
        elif tuple(old) == spatial.axes and len(new) == 1 and not spatial.tokens:
            merged = SpatialAxes(0, (new[0],), spatial.size, spatial.source)
            return replace(merged, batch=axes[spatial.batch]) if spatial.batch in axes else None
        elif tuple(old) == spatial.axes and len(new) == 2 and not spatial.prefix and not spatial.suffix:
            if spatial.batch not in axes or (
                None not in spatial.size and [after[a] for a in new] != list(spatial.size)
            ):
                return None
            return _map(node.outputs[0], (new[0], new[1]), axes[spatial.batch])
    return _moved(node.outputs[0], spatial, axes)


def _concat(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    out = known_dims(node.outputs[0])
    if out is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(out)
    at = [i for i, value in enumerate(node.inputs) if value is not None and value in known]
    spatial = known[input_of(node, at[0])]
    if axis == spatial.batch:
        return None
    if axis not in spatial.axes:
        return spatial
    if not spatial.tokens:  # a roll, or two maps side by side
        return _map(node.outputs[0], spatial.axes, spatial.batch)
    sizes = [(known_dims(value) or [None] * len(out))[axis] for value in node.inputs if value is not None]
    before, behind = sizes[: at[0]], sizes[at[0] + 1 :]
    if len(at) > 1 or None in behind:
        return None
    return replace(
        spatial,
        prefix=-1 if None in before or spatial.prefix < 0 else spatial.prefix + sum(d or 0 for d in before),
        suffix=spatial.suffix + sum(d or 0 for d in behind),
    )


def _slice(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    spatial, dims = _first(node, known)
    if spatial is None or dims is None:
        return None
    if not spatial.tokens:  # also by steps, as in patch merging: rows and columns stay on their axes
        return _map(node.outputs[0], spatial.axes, spatial.batch)
    read = tokens_read(node, spatial)
    return _cut(spatial, dims[spatial.axes[0]], *read) if read is not None else None


def _gather(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    """One index drops its axis, several keep it."""
    spatial, dims = _first(node, known)
    indices = known_dims(node.inputs[1]) if node.inputs[1] is not None else None
    if spatial is None or dims is None or indices is None or node.inputs[0] not in known:
        return None
    axis = node.attributes.get_int("axis", 0) % len(dims)
    if axis in {*spatial.axes, spatial.batch}:
        return None
    grown = len(indices) - 1
    return _moved(node.outputs[0], spatial, {a: a + grown * (a > axis) for a in range(len(dims)) if a != axis})


def _reduce(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    spatial, dims = _first(node, known)
    axes = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if spatial is None or dims is None or axes is None:
        return None
    gone = {int(a) % len(dims) for a in axes.reshape(-1)}
    if gone & {*spatial.axes, spatial.batch}:
        return None
    if node.attributes.get_int("keepdims", 1):
        return spatial
    return _moved(
        node.outputs[0], spatial, {a: a - sum(g < a for g in gone) for a in range(len(dims)) if a not in gone}
    )


def _matmul(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    """Rows come from the first factor, columns from the second; leading axes from either."""
    out = known_dims(node.outputs[0])
    for index, value in enumerate(node.inputs[:2]):
        spatial, dims = (known.get(value), known_dims(value)) if value is not None else (None, None)
        if spatial is None or dims is None or out is None:
            continue
        lost = len(dims) - 1 if index == 0 else len(dims) - 2
        if lost in {*spatial.axes, spatial.batch}:
            continue
        lead = len(out) - len(dims)
        return _moved(node.outputs[0], spatial, {axis: axis + lead for axis in range(len(dims))})
    return None


def _einsum(node: ir.Node, known: KnownAxes) -> SpatialAxes | None:
    terms, _, result = str(node.attributes.get_string("equation", "")).replace(" ", "").partition("->")
    for value, term in zip(node.inputs, terms.split(","), strict=False):
        spatial = known.get(value) if value is not None else None
        if spatial is None or "." in term:
            continue
        if all(term[axis] in result for axis in (spatial.batch, *spatial.axes)):
            return _moved(node.outputs[0], spatial, {a: result.index(c) for a, c in enumerate(term) if c in result})
    return None


def _split(node: ir.Node, known: KnownAxes) -> None:
    spatial, dims = _first(node, known)
    if spatial is None or dims is None:
        return
    axis, begin = node.attributes.get_int("axis", 0) % len(dims), 0
    for output in node.outputs:
        out = known_dims(output)
        part: SpatialAxes | None = spatial
        if axis == spatial.batch or out is None:
            part = None
        elif axis in spatial.axes and not spatial.tokens:
            part = _map(output, spatial.axes, spatial.batch)
        elif axis in spatial.axes:
            size = out[axis]
            part = None if size is None else _cut(spatial, dims[axis], begin, begin + size)
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
    """A tensor whose spatial axes a Reshape merged with others, as group normalisation does; another Reshape that
    restores the sizes separates them again. ``rows``: it is a matrix with a row for each image and token, whose last
    axis may change."""

    spatial: SpatialAxes
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
    if before.dims[:end] != after[:end] or (before.rows and before.spatial.axes[-1] == end):
        return None
    return _moved(node.outputs[0], before.spatial, {axis: axis for axis in range(len(after))})


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


def _moved(value: ir.Value, spatial: SpatialAxes, axes: dict[int, int]) -> SpatialAxes | None:
    """The spatial axes after they were moved."""
    if any(axis not in axes for axis in (spatial.batch, *spatial.axes)):
        return None
    moved = tuple(axes[axis] for axis in spatial.axes)
    if not spatial.tokens:
        return _map(value, moved, axes[spatial.batch])
    return replace(spatial, batch=axes[spatial.batch], axes=moved)


def _checked(value: ir.Value, spatial: SpatialAxes) -> SpatialAxes | None:
    """The spatial axes, completed by the number of tokens before the image's; None if they do not fit the tensor."""
    dims = known_dims(value)
    if dims is None or max(*spatial.axes, spatial.batch) >= len(dims):
        return None
    if not spatial.tokens or dims[spatial.axes[0]] is None:
        return spatial
    total = dims[spatial.axes[0]]
    rows, columns = spatial.size
    if spatial.prefix < 0 and total is not None and rows is not None and columns is not None:
        spatial = replace(spatial, prefix=total - rows * columns - spatial.suffix)
        return spatial if spatial.prefix >= 0 else None
    return spatial if spatial.count in {None, total} else None


def _cut(spatial: SpatialAxes, count: int | None, begin: int, end: int) -> SpatialAxes | None:
    """The tokens from ``begin`` to ``end``, if all of the image's are among them."""
    if not 0 <= begin <= spatial.prefix:
        return None
    count = spatial.count if count is None else count
    cut = 0 if end >= 2**31 else None if count is None else max(0, count - end)
    if cut is None or cut > spatial.suffix:
        return None
    return replace(spatial, prefix=spatial.prefix - begin, suffix=spatial.suffix - cut)
