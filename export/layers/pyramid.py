"""The layers of a detector: at each scale, the last features before the scales are mixed."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.autodiff.backward import depends_on
from portable_cam.export.graph.values import known_dims, reads
from portable_cam.export.layers.candidates import candidates, find_axes, image_input
from portable_cam.export.layers.spatial import KnownAxes, is_feature_map

#: A gate over channels (squeeze and excite) reads a whole map and gives it back: it is no way out.
_REDUCES = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"})


def pyramid(graph: ir.Graph, scores: Sequence[ir.Value]) -> list[ir.Value]:
    """One layer for each scale that the neck or the heads read from the backbone, largest first; none if there is no
    such structure.

    The backbone is what has no coarser map behind it: where a map is enlarged and merged, the neck begins. At each
    scale its ways out are the maps that something else reads: the neck, a head, the next scale. The layer is the last
    tensor of the scale that every path to all ways out passes.
    """
    affected = depends_on(list(graph), [image_input(graph)])
    path = _path(graph, scores, affected)
    known = find_axes(graph)
    backbone = _backbone(path, affected, known)
    out: dict[int, list[ir.Value]] = {}
    for value in scores:
        if backbone.get(value):
            out.setdefault(backbone[value], []).append(value)
    trunk: dict[int, list[ir.Value]] = {}
    for node in path:
        if node.op_type in _REDUCES:
            continue
        result = backbone.get(node.outputs[0])
        for value in reads(node):
            scale = backbone.get(value)
            if scale and result is None:
                out.setdefault(scale, []).append(value)
            elif scale and result and result < scale:
                trunk.setdefault(scale, []).append(value)
    found = [_last_common(graph, known, scale, out[scale], trunk.get(scale, [])) for scale in sorted(out, reverse=True)]
    return [value for value in found if value is not None]


def _last_common(
    graph: ir.Graph, known: KnownAxes, scale: int, out: list[ir.Value], trunk: list[ir.Value]
) -> ir.Value | None:
    """The last map of this height that every path to these values passes; else the last that the next scale reads, or
    the neck; None if none of them is a map."""
    for value, layer in candidates(graph, *dict.fromkeys([*out, *trunk])):
        if layer.why.startswith("every") and layer.grid[0] == scale:
            return value
    return next((value for value in [*out, *trunk][::-1] if is_feature_map(value, known.get(value))), None)


def _path(graph: ir.Graph, scores: Sequence[ir.Value], affected: set[ir.Value]) -> list[ir.Node]:
    """The nodes between the image and the scores, in order."""
    wanted = set(scores)
    found = []
    for node in reversed(list(graph)):
        if any(value in wanted for value in node.outputs) and any(value in affected for value in reads(node)):
            found.append(node)
            wanted.update(value for value in reads(node) if value in affected)
    return found[::-1]


def _backbone(path: Sequence[ir.Node], affected: set[ir.Value], axes: KnownAxes) -> dict[ir.Value, int]:
    """The backbone's tensors and their height: 0 for those without one (a gate over channels); what has not the axes
    of a map (channels on their way to be shuffled, the rows of a head) has that of what it was made of."""
    heights: dict[ir.Value, int] = {}
    mixed: set[ir.Value] = set()
    for node in path:
        sources = [value for value in reads(node) if value in affected]
        known = {heights[s] for s in sources if heights.get(s)}
        for value in node.outputs:
            height = _height(value, axes)
            merges = len(known) > 1 if height is None else any(0 < h < height for h in known)
            if merges or any(s in mixed for s in sources):
                mixed.add(value)
            else:
                heights[value] = max(known, default=0) if height is None else height
    return heights


def _height(value: ir.Value, axes: KnownAxes) -> int | None:
    """The height of a map or of tokens, 0 for a single cell, None for what has not the axes of a map."""
    found = axes.get(value)
    if is_feature_map(value, found):
        assert found is not None
        return found.size[0]
    dims = known_dims(value)
    return 0 if dims is not None and dims[2:] == [1, 1] else None
