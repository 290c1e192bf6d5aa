"""Rules for what looks at an image several times, or at places that another tensor says: each view has rows and columns
of its own (:mod:`portable_cam.export.layers.frames`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import onnx_ir as ir

from portable_cam.export.graph.values import constant_of, known_dims
from portable_cam.export.layers.axes import (
    BATCH,
    Axis,
    Digit,
    Known,
    Part,
    Position,
    Source,
    axis_of,
    channels,
    holds,
    is_one,
    merged,
    part_size,
    position,
    why_lost,
)
from portable_cam.export.layers.axis_rules.at import At, Lost, rule
from portable_cam.export.layers.axis_rules.grids import is_affine
from portable_cam.export.layers.axis_rules.join import made_of_all
from portable_cam.export.layers.axis_rules.sizes import computed_array, computed_sizes
from portable_cam.export.layers.frames import Look, Pieces, View, made_by, seen_through
from portable_cam.export.layers.relation import Size

# -- views of an image side by side --------------------------------------------------------------------------------


def stacked(at: At, axis: int) -> Known | None:
    """Views of the images one behind the other: along the axis of images, or along a new axis. None if the inputs are
    no views: they look at the same, or something else than images stands on the axis."""
    given = [at.axes(i) for i in range(len(at.node.inputs))]
    parts = [axes for axes in given if axes is not None]
    if len(parts) < 2 or len(parts) < len(given) or len({len(axes) for axes in parts}) > 1:
        return None
    ends = {axes[axis] for axes in parts}
    batch = all(holds(end, *BATCH) for end in ends)
    if len(ends) > 1 or len(next(iter(ends))) > 1 or not (batch or all(map(is_one, ends))):
        return None
    moving = [i for i in range(len(parts[0])) if i != axis and any(holds(axes[i], "position") for axes in parts)]
    if not batch and all(axes[i] == parts[0][i] for axes in parts for i in moving):
        return None
    places = [[_placed(axes[i]) for i in moving] for axes in parts]
    if any(None in found for found in places):
        return None if not batch else at.all_lost(why="it stacks views whose rows and columns are not known")
    source = Source("view", len(parts), why=made_by(at.node))
    found = made_of_all(at, len(parts[0]), at.out() or [None] * len(parts[0]), skip=axis)
    found[axis] = merged([Digit(source, len(parts)), *(parts[0][axis][0] if batch else ())])
    looks = [[Look(p.spatial, p.relation, p.size) for p in each if p is not None] for each in places]
    return Known(_in_view(at, found, moving, looks, source, found[axis] if batch else axis_of(source)), at.wide)


def repeated(at: At, axis: int, count: int) -> Known:
    """Images that stand so many times behind one another, as for samples of noise.

    Raises:
        Lost: Where the image's rows and columns are is not known.
    """
    axes = at.first
    source = Source("view", count, why=made_by(at.node))
    found = list(axes)
    found[axis] = merged([Digit(source, count), *axes[axis][0]])
    moving = [i for i, a in enumerate(axes) if holds(a, "position")]
    if not moving:
        return Known(tuple(found), at.wide)
    looks = _looks(at, moving, "it repeats images whose rows and columns are not known")
    return Known(_in_view(at, found, moving, [looks] * count, source, found[axis]), at.wide)


def _placed(axis: Axis) -> Position | None:
    """Positions that a view can lie along."""
    found = position(axis)
    return None if found is None or isinstance(found.relation.frame, Pieces) else found


def _in_view(
    at: At,
    axes: Sequence[Axis],
    moving: Sequence[int],
    looks: Sequence[Sequence[Look]],
    source: Source | None,
    batch: Axis,
    sizes: Sequence[Size] | None = None,
    *,
    run_time: bool = False,
    indexed: bool = False,
) -> tuple[Axis, ...]:
    """The axes, those that move with positions in a new view."""
    new = sizes if sizes is not None else [look.size for look in looks[0]]
    view = View(
        tuple(tuple(each) for each in looks),
        tuple(look.spatial for look in looks[0]),
        tuple(moving),
        tuple(new),
        source,
        batch,
        at.node if run_time else None,
        indexed,
    )
    found = list(axes)
    for i, size, look in zip(moving, new, looks[0], strict=True):
        found[i] = axis_of(Source("position", size, look.spatial, view.along(look.spatial)))
    return tuple(found)


def chosen(at: At, axes: Sequence[Axis], axis: int, entries: range) -> tuple[Axis, ...] | None:
    """The axes where one of several views is cut out, along the axis that has them outermost; None if the entries are
    anything else."""
    if len(axes[axis]) != 1 or not axes[axis][0] or axes[axis][0][0].kind != "view" or not axes[axis][0][0].whole:
        return None
    _, *rest = axes[axis][0]
    each = part_size(tuple(rest))
    if each is None or entries.step != 1 or len(entries) != each or entries.start % each:
        return None
    return one_view(at, axes, axis, entries.start // each)


def one_view(at: At, axes: Sequence[Axis], axis: int, number: int) -> tuple[Axis, ...]:
    """The axes of one of the views that stand outermost on an axis."""
    view, *rest = axes[axis][0]
    found = []
    for i, other in enumerate(axes):
        parts = [_seen(part, view.source, number) for part in other]
        known: Axis = tuple(part for part in parts if part is not None)
        found.append(merged(rest) if i == axis else known if len(known) == len(other) else at.lost(None))
    return tuple(found)


def _seen(part: Part, source: Source, number: int) -> Part | None:
    """Positions that count in the views, in what the one of them counts in."""
    out = []
    for digit in part:
        frame = digit.source.relation.frame if digit.source.relation is not None else None
        if isinstance(frame, View) and frame.source == source:
            found = seen_through(frame, number, digit.source.spatial, digit.source.relation)  # type: ignore[arg-type]
            if found is None:
                return None
            digit = replace(digit, source=replace(digit.source, spatial=found[0], relation=found[1], origin=None))
        elif isinstance(frame, View) and source in frame.sources():
            return None
        out.append(digit)
    return tuple(out)


# -- places that another tensor says --------------------------------------------------------------------------------


def moved_at_run_time(at: At, changed: Iterable[int], why: str) -> Known:
    """One view for each image, of which the node says at run time where it lies; ``changed``: the axes that the node
    moves along.

    Raises:
        Lost: Others than the rows and columns of the image are, or these are not known.
    """
    axes, out = at.first, at.out() or [None] * len(at.first)
    moving = [i for i, axis in enumerate(axes) if holds(axis, "position")]
    batch = [axis for axis in axes if holds(axis, *BATCH)]
    changed = list(changed)
    mixed = [i for i in changed if i not in moving and not (holds(axes[i], "channel") or is_one(axes[i]))]
    if mixed or len(batch) != 1:
        raise Lost(why)
    kept = [channels(out[i]) if i in changed and i not in moving else axis for i, axis in enumerate(axes)]
    if not set(changed) & set(moving):
        return Known(tuple(kept), at.wide)
    looks, sizes = _looks(at, moving, why), [out[i] for i in moving]
    return Known(_in_view(at, kept, moving, [looks], None, batch[0], sizes, run_time=True), at.wide)


def _looks(at: At, moving: Sequence[int], why: str) -> list[Look]:
    _main_graph(at, why)
    found = [_placed(at.first[i]) for i in moving]
    looks = [Look(p.spatial, p.relation, p.size) for p in found if p is not None]
    if len(looks) != 2 or len({look.spatial for look in looks}) != 2:
        lost = next((w for i in moving if (w := why_lost(at.first[i]))), None)
        raise Lost(lost or why)
    return looks


def _main_graph(at: At, why: str) -> None:
    """What a node of a subgraph says is not to be read outside."""
    graphs = {value.graph for value in at.known if value.producer() is None and value.is_graph_input()}
    if at.node.graph not in graphs or len(graphs) > 1:
        raise Lost(why)


@rule("GridSample")
def grid_sample(at: At) -> Known:
    """A view by a grid that is an affine map of its rows and columns, constant or computed; else positions are lost."""
    axes = at.first
    if len(axes) != 4:
        raise Lost("positions that another tensor says")
    out, kept = at.out() or [None] * 4, (axes[0], axes[1])
    try:
        if not is_affine(at.node.inputs[1], at.known):
            raise Lost("its grid is no affine map of rows and columns")
        if 1 in out[2:]:
            raise Lost("of a single row or column")
        looks = _looks(at, [2, 3], "the rows and columns that it samples are not known")
    except Lost as why:
        return Known((*kept, *(at.lost(size, str(why)) for size in out[2:])), at.wide)
    found = _in_view(at, [*kept, axes[2], axes[3]], [2, 3], [looks], None, axes[0], out[2:], run_time=True)
    return Known(found, at.wide)


@rule("RoiAlign")
def roi_align(at: At) -> Known:
    """A view for each region: of the only image, of the image of its own index, or of the one that its index says."""
    axes, out = at.first, at.out() or [None] * 4
    looks = _looks(at, [2, 3], "positions that another tensor says")
    images, source = _entries_by_index(at, axes[0], out[0], 2)
    indexed = source is not None and not holds(images, "image")
    kept = [images, axes[1], axes[2], axes[3]]
    found = _in_view(at, kept, [2, 3], [looks], source, images, out[2:], run_time=True, indexed=indexed)
    return Known(found, at.wide)


def images_by_index(at: At, axes: Sequence[Axis], axis: int, count: Size) -> Known:
    """Images that a Gather takes by an index, perhaps one several times."""
    images, source = _entries_by_index(at, axes[axis], count, 1)
    found = list(axes)
    found[axis] = images
    moving = [i for i, a in enumerate(axes) if holds(a, "position")]
    if source is None or not moving:
        return Known(tuple(found), at.wide)
    looks = _looks(at, moving, "the rows and columns of the images are not known")
    indexed = not holds(images, "image")
    sizes = [look.size for look in looks]
    views = [looks] if indexed or not isinstance(count, int) else [looks] * count
    return Known(_in_view(at, found, moving, views, source, images, sizes, run_time=indexed, indexed=indexed), at.wide)


def _entries_by_index(at: At, batch: Axis, count: Size, index: int) -> tuple[Axis, Source | None]:
    """The axis of entries that a node takes from the axis of images by an index, and its source where they are several
    views of an image.

    Args:
        at: The node.
        batch: The axis of images.
        count: How many entries are taken.
        index: The input that says which.

    Raises:
        Lost: The axis has other entries than images.
    """
    if len(batch) != 1 or len(batch[0]) != 1 or batch[0][0].kind != "image":
        raise Lost("its indices choose between images and more")
    images = batch[0][0]
    if (images.size == 1 and count == 1) or _counts_up(at, at.node.inputs[index], images.size):
        return batch, None
    source = Source("view", f"{at.node.outputs[0].name}:0" if count is None else count, why=made_by(at.node))
    if images.size == 1 and isinstance(count, int):
        return merged([Digit(source, count), images]), source
    return axis_of(source), source


_KEEPS_ORDER = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def _counts_up(at: At, index: ir.Value | None, size: Size) -> bool:
    """The index is 0, 1, 2 and so on up to the number of images."""
    table = computed_array(index, at.known)
    if table is not None:
        return table.reshape(-1).tolist() == list(range(size)) if isinstance(size, int) else False
    node = None if index is None else index.producer()
    while node is not None and (node.op_type in _KEEPS_ORDER or _takes_first_column(node)):
        before = node.inputs[0]
        table_of = None if before is None else before.producer()
        if _takes_first_column(node) and table_of is not None:
            before = table_of.inputs[0]  # torchvision: the index stands before the box
        node = None if before is None else before.producer()
    if node is None or node.op_type != "Range":
        return False
    start, limit, step = (computed_sizes(value, at.known) for value in node.inputs)
    return (start, limit, step) == ([0], [size], [1])


def _takes_first_column(node: ir.Node) -> bool:
    """Of a table whose first column is put before others."""
    table = None if node.op_type not in {"Slice", "Gather"} or node.inputs[0] is None else node.inputs[0].producer()
    if table is None or table.op_type != "Concat" or table.attributes.get_int("axis", 0) != 1:
        return False
    given = [constant_of(value) for value in node.inputs[1:4]]
    if any(array is None for array in given) or (known_dims(table.inputs[0]) or [])[1:] != [1]:
        return False
    numbers = [array.reshape(-1).tolist() for array in given if array is not None]
    return (
        numbers == [[0], [1], [1]]
        if node.op_type == "Slice"
        else (numbers == [[0]] and node.attributes.get_int("axis", 0) == 1)
    )
