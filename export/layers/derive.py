"""What the axes of every tensor are, derived from the image forwards through the table of rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import onnx_ir as ir

from portable_cam.export.graph.values import known_dims
from portable_cam.export.layers.axes import (
    BATCH,
    Axis,
    Known,
    Part,
    Position,
    Source,
    axis_of,
    digits_of,
    holds,
    part_size,
    position,
    positions,
)
from portable_cam.export.layers.axis_rules import AxesOf, follow
from portable_cam.export.layers.axis_rules.at import at_origin
from portable_cam.export.layers.axis_rules.sizes import named_sizes
from portable_cam.export.layers.frames import View, rolled
from portable_cam.export.layers.relation import Relation
from portable_cam.export.layers.spatial import SpatialAxes

#: Under this key what was read of scores, until axes are declared.
SCORE_AXES = "portable_cam.score_axes"
#: Under this key of ``ir.Value.meta`` stands what a person declared of the axes.
DECLARED = "portable_cam.axes"


def derive(graph: ir.Graph, image: ir.Value, channel_axis: int) -> AxesOf:
    """What is known of every tensor that varies with the image or another input.

    Args:
        graph: A normalised graph.
        image: Its image, of rank 4.
        channel_axis: 1 for (N, C, H, W), 3 for (N, H, W, C).
    """
    spatial = (2, 3) if channel_axis == 1 else (1, 2)
    known: AxesOf = {value: _given(value) for value in graph.inputs if value is not image}
    known[image] = image_axes(image, dict(zip(spatial, (0, 1), strict=True)))
    return follow(graph, known)


def image_axes(image: ir.Value, spatial: dict[int, int]) -> Known:
    """Those of the image: of each of its spatial axes which it is, the others images and channels."""
    sizes = named_sizes(image)
    assert sizes is not None
    axes = []
    for i, size in enumerate(sizes):
        if i in spatial:
            axes.append(axis_of(Source("position", size, spatial[i], Relation(1, 0, 1))))
        else:
            axes.append(axis_of(Source("image" if i == 0 else "channel", size)))
    return Known(at_origin(image, axes))


def _given(value: ir.Value) -> Known:
    sizes = named_sizes(value)
    return Known(
        None if sizes is None else tuple(axis_of(Source("given", size, why=str(value.name))) for size in sizes)
    )


# -- the axes of a map or of tokens -----------------------------------------------------------------------------------


def spatial_axes(value: ir.Value, known: Known) -> SpatialAxes | None:
    """The axes of rows and columns, each on its own, or of the tokens; None if the two are not there, or nothing has an
    axis of images of its own.

    ``features`` is False where the axes left are no channels: a second axis of rows and columns, or one not known.
    """
    if known.axes is None:
        return None
    views = _views(known.axes)
    batch = [i for i, axis in enumerate(known.axes) if _are_entries(axis, views)]
    if len(batch) != 1 or len(views) > 1:
        return None
    entries = known.axes[batch[0]][0] if views else ()
    single = {i: found for i, axis in enumerate(known.axes) if (found := position(axis) or rolled(axis)) is not None}
    rows, columns = ([i for i, found in single.items() if found.spatial == s] for s in (0, 1))
    tokens = {i: grid for i, axis in enumerate(known.axes) if (grid := _grid(axis)) is not None}
    others = [*single, *tokens]
    if len(rows) == len(columns) == 1 and not tokens:
        at = (rows[0], columns[0])
        h, w = single[at[0]], single[at[1]]
        source = ((value, at[0]), (value, at[1]))
        features = all(_is_channels(a) for i, a in enumerate(known.axes) if i not in {*at, batch[0]})
        features = features and h.finer == w.finer  # else it is no DepthToSpace but several entries at each place
        relations = (_widened(h, known), _widened(w, known))
        return SpatialAxes(
            batch[0], at, (h.size, w.size), source, features=features, relations=relations, entries=entries
        )
    if not tokens:
        return None
    i, (prefix, pair, suffix) = next(iter(tokens.items()))
    features = len(others) == 1 and all(_is_channels(a) for k, a in enumerate(known.axes) if k not in {i, batch[0]})
    h, w = sorted(pair, key=lambda found: found.spatial)
    if None in {h.size, w.size} and None in {h.origin, w.origin}:
        return None
    origins = None if h.origin is None or w.origin is None else (h.origin, w.origin)
    relations = (_widened(h, known), _widened(w, known))
    return SpatialAxes(
        batch[0],
        (i,),
        (h.size, w.size),
        origins,
        prefix,
        suffix,
        features,
        relations,
        columns_first=pair[0] is w,
        entries=entries,
    )


def _widened(found: Position, known: Known) -> Relation:
    """The relation, its span the whole image where each entry depends on it."""
    relation = found.relation
    return replace(relation, span=float("inf")) if found.spatial in known.wide else relation


def _views(axes: Iterable[Axis]) -> set[View]:
    """The views that positions count in: one, of a map."""
    relations = (digit.source.relation for axis in axes for digit in digits_of(axis))
    return {found.frame for found in relations if found is not None and isinstance(found.frame, View)}


def _are_entries(axis: Axis, views: Collection[View]) -> bool:
    """An entry for each image, or for each of the views that positions count in."""
    if len(axis) != 1 or not axis[0] or not all(digit.whole and digit.kind in BATCH for digit in axis[0]):
        return False
    sources = [digit.source for digit in axis[0] if digit.kind == "view"]
    wanted = set().union(*(view.sources() for view in views))
    at_nodes = {d.source for view in views for batch in view.batches() for d in digits_of(batch) if d.kind in BATCH}
    images = len(axis[0]) - len(sources)
    if set(sources) != wanted or len(sources) != len(wanted) or not at_nodes <= {digit.source for digit in axis[0]}:
        return False
    return images == (0 if any(view.has_index for view in views) else 1)


def _is_channels(axis: Axis) -> bool:
    """Channels, and what a window or patch has inside it, as SpaceToDepth puts there."""
    return all(
        digit.kind in {"channel", "extra"} or (digit.kind == "position" and not digit.outermost)
        for digit in digits_of(axis)
    )


def _grid(axis: Axis) -> tuple[int, list[Position], int] | None:
    """Rows and columns flattened, with how many tokens stand before them (-1: not known) and behind."""
    at = [i for i, part in enumerate(axis) if holds((part,), "position", "unknown", *BATCH)]
    if len(at) != 1:
        return None
    found = positions(axis[at[0]])
    if found is None or sorted(p.spatial for p in found) != [0, 1] or any(p.finer > 1 for p in found):
        return None
    before, behind = axis[: at[0]], axis[at[0] + 1 :]
    prefix, suffix = _count(before), _count(behind)
    return None if suffix is None else (-1 if prefix is None else prefix, found, suffix)


def _count(parts: tuple[Part, ...]) -> int | None:
    sizes = [part_size(part) for part in parts]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def declared_axes(value: ir.Value) -> SpatialAxes | None:
    """The axes that a person declared; None if nobody did."""
    layout, dims = value.meta.get(DECLARED), known_dims(value)
    if layout is None or dims is None or not set("NHW") <= set(str(layout)):
        return None
    n, h, w = (str(layout).index(letter) for letter in "NHW")
    return SpatialAxes(n, (h, w), (dims[h], dims[w]), ((value, h), (value, w)))


def why_not(value: ir.Value, known: Known | None) -> str:
    """What of a tensor's axes stands in the way of a map."""
    dims = known_dims(value)
    if known is None:
        return "it does not depend on the image"
    if known.axes is None or dims is None:
        return "its rank is not known"
    reasons = []
    seen: dict[int, int] = {}
    views = _views(known.axes)
    for i, axis in enumerate(known.axes):
        digits = digits_of(axis)
        unknown = next((d.source.why for d in digits if d.kind == "unknown"), None)
        given = next((d.source.why for d in digits if d.kind == "given"), None)
        twice = {d.source.spatial for d in digits if d.kind == "position" and d.outermost}
        if unknown is not None:
            reasons.append(f"axis {i} is not known behind {unknown}")
        elif given is not None:
            reasons.append(f"axis {i} is that of the input '{given}'")
        elif any(d.kind in BATCH for d in digits) and not _are_entries(axis, views):
            reasons.append(f"axis {i} holds images and more (windows, heads or views)")
        elif twice & seen.keys():
            reasons.append(f"axes {seen[min(twice & seen.keys())]} and {i} both are positions of the image")
        elif len([part for part in axis if holds((part,), "position")]) > 1 and rolled(axis) is None:
            reasons.append(f"axis {i} has several views of the image one behind the other")
        seen |= dict.fromkeys(twice, i)
    if not any(_are_entries(axis, views) for axis in known.axes):
        of = f"views that {next(iter(views)).name} made" if views else "images alone"
        reasons.append(f"no axis is that of the {of}")
    missing = [name for s, name in enumerate(("rows", "columns")) if s not in seen]
    if missing and not reasons:
        reasons.append(f"no axis holds the {' or '.join(missing)} of the image")
    return "; ".join(reasons) or "its axes are no map's"
