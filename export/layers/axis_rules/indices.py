"""Rules for operators that read or write by indices: constant ones, and those that are known at run time only."""

from __future__ import annotations

import numpy as np

from portable_cam.export.graph.values import constant_of
from portable_cam.export.layers.axes import BATCH, ONE, Axis, Known, Source, axis_of, channels, free, holds, part_size
from portable_cam.export.layers.axis_rules import views
from portable_cam.export.layers.axis_rules.at import At, rule, spatial_of
from portable_cam.export.layers.axis_rules.join import made_of_all
from portable_cam.export.layers.axis_rules.regroup import regroup
from portable_cam.export.layers.axis_rules.sizes import computed_array, named_sizes
from portable_cam.export.layers.axis_rules.taken import pick


@rule("Gather")
def gather(at: At) -> Known:
    """Constant indices: as Slice, or as Reshape and Transpose where they follow an order of rows and columns. Others
    keep all axes but theirs."""
    data, index, rank = at.axes(0), at.axes(1), len(at.dims(0))
    axis = at.int_attr("axis", 0) % max(rank, 1)
    indices = constant_of(at.node.inputs[1])
    if indices is None:
        indices = computed_array(at.node.inputs[1], at.known)
    size = at.dims(0)[axis] if rank else None
    if data is None:  # rows of a constant table
        rest = [channels(size) for size in at.dims(0)]
        assert index is not None
        return Known((*rest[:axis], *index, *rest[axis + 1 :]), at.wide)
    if indices is not None and (isinstance(size, int) or _from_front(data[axis], indices)):
        flat = indices.reshape(-1).astype(np.int64)
        flat = flat + (flat < 0) * (size if isinstance(size, int) else 0)
        if indices.ndim == 1 and holds(data[axis], "image") and flat.size != 1:
            return views.images_by_index(at, data, axis, flat.size)
        if flat.size == 1 and (view := views.chosen(at, data, axis, range(int(flat[0]), int(flat[0]) + 1))) is not None:
            return Known(view if indices.ndim else (*view[:axis], *view[axis + 1 :]), at.wide)
        if isinstance(size, int):
            found = pick(data[axis], flat, at.lost) if indices.ndim else ONE
        else:
            found = axis_of(Source("extra", flat.size))
        shape = list(indices.shape)
        middle = regroup([found], [flat.size], shape, at.lost) if len(shape) > 1 else [found][: indices.ndim]
        if not indices.ndim and holds(data[axis], *BATCH) and size != 1:
            return Known((*data[:axis], *data[axis + 1 :]), at.wide)
        return Known((*data[:axis], *middle, *data[axis + 1 :]), at.wide)
    sizes = named_sizes(at.node.inputs[1])
    if sizes is None:
        return Known(None, at.wide)
    if len(sizes) == 1 and holds(data[axis], *BATCH):
        return views.images_by_index(at, data, axis, sizes[0])
    if free(data[axis]):
        middle = list(index) if index is not None else [channels(n) for n in sizes]
    else:
        middle = [at.lost(n, "its indices are computed at run time") for n in sizes]
    return Known((*data[:axis], *middle, *data[axis + 1 :]), at.wide | spatial_of(data[axis]))


def _from_front(axis: Axis, indices: np.ndarray) -> bool:
    """All indices fall on what stands in front of the image's tokens."""
    ahead = 0
    for part in axis:
        size = part_size(part)
        if size is None or holds((part,), "position", *BATCH, "unknown"):
            break
        ahead += size
    return bool(indices.size) and int(indices.min()) >= 0 and int(indices.max()) < ahead


@rule("GatherElements", "GatherND", "ScatterElements", "ScatterND", "ReverseSequence")
def by_index(at: At) -> Known:
    """Entries of run-time indices: the axes that no index moves along keep their meaning; numbers that are written or
    added at fixed places move nothing."""
    data = at.axes(0)
    if at.node.op_type.startswith("Scatter") and data is not None and at.axes(1) is None and at.axes(2) is None:
        return Known(data, at.wide)
    if at.node.op_type in {"ScatterElements", "ScatterND", "GatherND"}:
        return at.all_lost(why="its indices move entries along several axes")
    if at.node.op_type == "ReverseSequence":
        axes = at.axes(0)
        if axes is None:
            return at.all_lost()
        gone = {at.int_attr("time_axis", 0) % len(axes)}
        kept = [
            at.lost(n) if i in gone and not free(a) else a
            for i, (a, n) in enumerate(zip(axes, at.dims(0), strict=True))
        ]
        return Known(tuple(kept), at.wide)
    rank = len(at.dims(0))
    axis = at.int_attr("axis", 0) % max(rank, 1)
    out = at.out() or [None] * rank
    others = made_of_all(at, rank, out, skip=axis)
    mine = at.axes(0)
    found = channels(out[axis]) if mine is None or free(mine[axis]) else at.lost(out[axis], "its indices move entries")
    return Known((*others[:axis], found, *others[axis + 1 :]), at.wide)


@rule("Col2Im", "Compress", "AffineGrid", "NonMaxSuppression", "NonZero", "Unique", "Multinomial")
def run_time(at: At) -> list[Known]:
    """Positions are a function of another tensor, known only at run time."""
    return [at.all_lost(i, "positions that another tensor says") for i in range(len(at.node.outputs))]
