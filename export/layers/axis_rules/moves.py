"""Rules for operators that move, split, join, cut and repeat axes."""

from __future__ import annotations

from portable_cam.export.layers.axes import (
    BATCH,
    ONE,
    Axis,
    Digit,
    Known,
    Part,
    Source,
    axis_of,
    channels,
    free,
    holds,
    is_one,
    lost,
    merged,
    part_size,
    position,
    side_by_side,
    size_of,
    why_lost,
)
from portable_cam.export.layers.axis_rules import views
from portable_cam.export.layers.axis_rules.at import At, rule
from portable_cam.export.layers.axis_rules.join import made_of_all, unknown_views
from portable_cam.export.layers.axis_rules.regroup import regroup
from portable_cam.export.layers.axis_rules.sizes import computed_sizes, named_sizes
from portable_cam.export.layers.axis_rules.taken import take
from portable_cam.export.layers.relation import Size


@rule("Reshape", "Flatten")
def reshape(at: At) -> Known:
    """Axes are factored and joined in order."""
    axes = at.first
    value = at.node.outputs[0]
    after = named_sizes(value)
    if after is None:
        return Known(None, at.wide)
    wanted = computed_sizes(at.node.inputs[1], at.known) if at.node.op_type == "Reshape" else None
    if wanted is not None and len(wanted) == len(after):  # a zero keeps a size, open or not
        before, keeps = at.dims(0), not at.int_attr("allowzero", 0)
        named = [before[i] if n == 0 and keeps and i < len(before) else n for i, n in enumerate(wanted)]
        after = [d if isinstance(d, int) else None if n == -1 else n for n, d in zip(named, after, strict=True)]
    return Known(tuple(regroup(axes, at.dims(0), after, at.lost)), at.wide)


@rule("Transpose")
def transpose(at: At) -> Known:
    """Axes permute."""
    axes = at.first
    perm = at.ints_attr("perm") or range(len(axes))[::-1]
    return Known(tuple(axes[axis] for axis in perm), at.wide)


@rule("Squeeze")
def squeeze(at: At) -> Known:
    """Axes of one entry go."""
    axes, given = at.first, at.const(1)
    gone = {a % len(axes) for a in given} if given is not None else {i for i, n in enumerate(at.dims(0)) if n == 1}
    return Known(tuple(axis for i, axis in enumerate(axes) if i not in gone), at.wide)


@rule("Unsqueeze")
def unsqueeze(at: At) -> Known:
    """Axes of one entry come in."""
    axes, given = at.axes(0), at.const(1)
    if axes is None or given is None:
        return at.all_lost(why="its axes are computed at run time")
    rank, rest = len(axes) + len(given), list(axes)
    new = {a % rank for a in given}
    return Known(tuple(ONE if i in new else rest.pop(0) for i in range(rank)), at.wide)


@rule("Expand")
def expand(at: At) -> Known:
    """Axes of one entry are repeated, the others stay; an image that is repeated has views."""
    axes = at.first
    out = at.out()
    if at.node.outputs[0].shape is None:
        return Known(None, at.wide)
    wanted = computed_sizes(at.node.inputs[1], at.known) or []
    wanted = [*out[: len(out) - len(wanted)], *wanted]
    out = [d if isinstance(d, int) else w for d, w in zip(out, wanted, strict=True)]
    lead = len(out) - len(axes)
    if not lead and _only_image(axes[0]) and isinstance(out[0], int) and out[0] > 1 and at.dims(0)[1:] == out[1:]:
        return views.repeated(at, 0, out[0])
    repeated = [channels(size) if size != 1 else ONE for size in out]
    return Known(
        tuple(
            repeated[i] if i < lead or (is_one(axes[i - lead]) and out[i] != 1) else axes[i - lead]
            for i in range(len(out))
        ),
        at.wide,
    )


_SAMPLES = 256  # of an image, at most


def _only_image(axis: Axis) -> bool:
    return len(axis) == 1 and len(axis[0]) == 1 and axis[0][0].kind == "image" and axis[0][0].size == 1


@rule("Tile")
def tile(at: At) -> Known:
    """As Expand; an axis of more than one entry is repeated part by part, that of images as views."""
    axes, repeats = at.axes(0), at.const(1)
    if axes is None or repeats is None:
        return at.all_lost(why="how often it repeats is computed at run time")
    batch = [i for i, count in enumerate(repeats) if count != 1]
    if len(batch) == 1 and holds(axes[batch[0]], *BATCH) and len(axes[batch[0]]) == 1 and repeats[batch[0]] <= _SAMPLES:
        return views.repeated(at, batch[0], repeats[batch[0]])
    found: list[Axis] = []
    for axis, count, size in zip(axes, repeats, at.out() or [None] * len(axes), strict=True):
        if count == 1:
            found.append(axis)
        elif free(axis):
            found.append(channels(size))
        elif holds(axis, *BATCH, "unknown") or count > 16:
            found.append(at.lost(size))
        else:
            found.append(axis * count)
    return Known(tuple(found), at.wide)


@rule("Slice")
def slice_(at: At) -> Known:
    """Start t and step q: step q, offset t; a negative step mirrors. Places that are known at run time are a view."""
    axes, starts, ends = at.axes(0), at.partly(1), at.partly(2)
    chosen = at.const(3) if at.given(3) else None if starts is None else list(range(len(starts)))
    steps = at.const(4) if at.given(4) else [1] * len(chosen or [])
    if axes is None or chosen is None or steps is None:
        return at.all_lost(why=_AT_RUN_TIME)
    dims, found, out = at.dims(0), list(axes), at.out() or [None] * len(axes)
    unknown: list[Size] = [None] * len(chosen)
    cuts = list(zip((a % len(axes) for a in chosen), starts or unknown, ends or unknown, steps, strict=True))
    if any(not isinstance(start, int) for _, start, _, _ in cuts):
        return views.moved_at_run_time(at, [axis for axis, *_ in cuts], _AT_RUN_TIME)
    for axis, start, end, step in cuts:
        size = dims[axis]
        assert isinstance(start, int)
        if isinstance(size, int) and isinstance(end, int):
            entries = range(size)[slice(start, end if step > 0 or end >= -size else None, step)]
            view = views.chosen(at, found, axis, entries)
            if view is not None:
                found = list(view)
            else:
                found[axis] = take(axes[axis], entries, at.lost)
        elif not isinstance(end, int):
            whole = (start, end, step) == (0, size, 1) and end is not None
            found[axis] = axes[axis] if whole else _loose_slice(at, axes[axis], start, step, out[axis])
        else:
            found[axis] = _open_slice(at, axes[axis], start, end, step, out[axis])
    return Known(tuple(found), at.wide)


_AT_RUN_TIME = "what it cuts is computed at run time"


def _loose_slice(at: At, axis: Axis, start: int, step: int, size: Size) -> Axis:
    """A slice whose end is computed at run time."""
    if free(axis):
        return channels(size)
    found = position(axis)
    if found is None or start < 0 or step < 0:
        return at.lost(size, _AT_RUN_TIME)
    return axis_of(Source("position", size, found.spatial, found.relation.through(step, start)))


def _open_slice(at: At, axis: Axis, start: int, end: int, step: int, size: Size) -> Axis:
    """A slice of an axis of open size, of which what stands at the end is not known."""
    if (start, step) == (0, 1) and end >= 2**31 - 1:
        return axis
    if free(axis):
        return channels(size)
    if step > 0 and start >= 0 and (found := position(axis)) is not None:
        relation = found.relation.through(step, start)
        return axis_of(Source("position", size, found.spatial, relation))
    if step != 1 or start < 0:
        return at.lost(size, "its size is open, and it counts from the end")
    cut: list[Part] = []
    begin = 0
    for part in axis:
        count = part_size(part)
        stop = None if count is None else begin + count
        if stop is not None and stop <= start:
            begin = stop
            continue
        if begin >= start and (end >= 2**31 - 1 or (stop is not None and stop <= end)):
            cut.append(part)
        elif not (0 <= end <= begin):
            if stop is None or holds((part,), *BATCH, "position", "unknown"):
                return at.lost(size, "it cuts through rows and columns")
            left = min(stop, end) - max(begin, start) if end >= 0 else None
            if left is None:
                return at.lost(size, "its size is open, and it counts from the end")
            cut.append((Digit(Source("extra", left), left),))
        if stop is None and 0 <= end < 2**31 - 1:
            return at.lost(size, "it cuts through rows and columns")
        begin = stop or 0
    return side_by_side(cut) if cut else channels(size)


@rule("Split")
def split(at: At) -> list[Known]:
    """As Slices side by side."""
    axes = at.first
    axis, begin = at.int_attr("axis", 0) % len(axes), 0
    total, given, count = at.dims(0)[axis], at.const(1), len(at.node.outputs)
    digit = axes[axis][0][0] if axes[axis] and axes[axis][0] else None
    if not at.given(1) and digit is not None and digit.kind == "view" and digit.whole and digit.size == count:
        return [Known(views.one_view(at, axes, axis, i), at.wide) for i in range(count)]
    if not at.given(1) and isinstance(total, int):
        each = -(-total // count)  # the last may be smaller
        given = [min(each, total - i * each) for i in range(count)]
    found: list[Known] = []
    for i in range(count):
        size = (at.out(i) or [None] * len(axes))[axis]
        if not isinstance(size, int) and given is not None:
            size = given[i]
        kept = [*axes[:axis], at.lost(size, "its sizes are open"), *axes[axis + 1 :]]
        if not isinstance(size, int) or (not isinstance(total, int) and not free(axes[axis])):
            kept[axis] = channels(size) if free(axes[axis]) else kept[axis]
        else:
            entries = range(begin, begin + size)
            view = views.chosen(at, axes, axis, entries) if isinstance(total, int) else None
            kept[axis] = take(axes[axis], entries, at.lost) if view is None else kept[axis]
            kept = kept if view is None else list(view)
            begin += size
        found.append(Known(tuple(kept), at.wide))
    return found


@rule("Concat")
def concat(at: At) -> Known:
    """Parts side by side, the other axes as in a sum; views of the images where they are stacked."""
    rank = max(len(at.dims(i)) for i in range(len(at.node.inputs)))
    axis = at.int_attr("axis", 0) % rank
    if (found := views.stacked(at, axis)) is not None:
        return found
    out = at.out() or [None] * rank
    others = made_of_all(at, rank, out, skip=axis)
    parts: list[Axis] = []
    for i, value in enumerate(at.node.inputs):
        if value is None:
            continue
        axes, size = at.axes(i), at.dims(i)[axis] if at.dims(i) else None
        if value in at.known and axes is None:
            return at.all_lost(why="the rank of a part is not known")
        parts.append(axis_of(Source("extra", size)) if axes is None else axes[axis])
    together = tuple(_beside(at, parts, out[axis]) if i == axis else a for i, a in enumerate(others))
    return Known(together, at.wide | unknown_views(at))


def _beside(at: At, axes: list[Axis], size: Size) -> Axis:
    """Axes one behind the other."""
    if all(free(axis) or _within(axis) for axis in axes):
        counts = [count for axis in axes if isinstance(count := size_of(axis), int)]
        return channels(sum(counts) if len(counts) == len(axes) else size)
    if any(holds(axis, *BATCH) for axis in axes):
        return axes[0] if len(axes) == 1 else at.lost(size, "it stacks images")
    whys = [why for axis in axes if (why := why_lost(axis)) is not None]
    if whys:
        return lost(size, whys[0])
    if len(axes) > 64:
        return at.lost(size, "it has too many parts")
    return side_by_side([_as_extra(part) for axis in axes for part in axis])


def _within(axis: Axis) -> bool:
    """Positions within a window or patch alone, as a SpaceToDepth has them in its channels."""
    return all(
        digit.kind in {"channel", "extra"} or (digit.kind == "position" and not digit.outermost)
        for part in axis
        for digit in part
    )


def _as_extra(part: Part) -> Part:
    """What is not of the image, between or beside what is."""
    if holds((part,), "position"):
        return part
    count = part_size(part)
    return (Digit(Source("extra", count), count),)


@rule("DepthToSpace")
def depth_to_space(at: At) -> Known:
    """As Reshape, Transpose and Reshape; the new digits make positions finer."""
    axes, r = at.first, at.int_attr("blocksize", 1)
    dims = at.dims(0)
    count = dims[1] // (r * r) if isinstance(dims[1], int) else None
    new: list[Size] = [r, r, count] if at.str_attr("mode", "DCR") == "DCR" else [count, r, r]
    deep = regroup([axes[1]], [dims[1]], new, at.lost)
    rows, columns, channel = (deep[0], deep[1], deep[2]) if new[2] is count else (deep[1], deep[2], deep[0])
    return Known((axes[0], channel, _finer(at, axes[2], rows), _finer(at, axes[3], columns)), at.wide)


def _finer(at: At, axis: Axis, inner: Axis) -> Axis:
    if len(axis) != 1 or len(inner) != 1:
        return at.lost(None)
    return merged([*axis[0], *inner[0]])


@rule("SpaceToDepth")
def space_to_depth(at: At) -> Known:
    """As Reshape, Transpose and Reshape."""
    axes, r = at.first, at.int_attr("blocksize", 1)
    dims, out = at.dims(0), at.out() or [None] * 4
    halves = [regroup([axes[i]], [dims[i]], [out[i] if isinstance(dims[i], int) else None, r], at.lost) for i in (2, 3)]
    deep = [*halves[0][1], *halves[1][1], *axes[1]]
    channel = merged([digit for part in deep for digit in part])
    return Known((axes[0], channel, halves[0][0], halves[1][0]), at.wide)
