"""The layers of a detector: at each scale, the last features before the scales are mixed."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.autodiff.backward import depends_on
from portable_cam.export.graph.values import known_dims, nodes_between, reads
from portable_cam.export.layers.candidates import candidates, image_input

#: The pooling of a gate over channels (squeeze and excite), which returns to the map: no output of the backbone.
_REDUCES = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"})


def pyramid(graph: ir.Graph, scores: Sequence[ir.Value]) -> list[ir.Value]:
    """One layer for each scale that the neck or the heads read from the backbone, largest first; none if there is no
    such structure.

    The backbone ends where a map is enlarged and merged with a finer one: there the neck begins. At each scale its
    outputs are the maps that something else reads: the neck, a head, the next scale. The layer is the last tensor of
    the scale that every path to all of these outputs passes.
    """
    nodes = list(graph)
    affected = depends_on(nodes, [image_input(graph)])
    path = nodes_between(nodes, affected, scores)
    backbone = _backbone(path, affected)
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
    return [_last_common(graph, scale, out[scale], trunk.get(scale, [])) for scale in sorted(out, reverse=True)]


def _last_common(graph: ir.Graph, scale: int, out: list[ir.Value], trunk: list[ir.Value]) -> ir.Value:
    """The last map of this height that every path to these values passes; else the map that the next scale reads."""
    for value, layer in candidates(graph, *dict.fromkeys([*out, *trunk])):
        if layer.why.startswith("every") and layer.grid[0] == scale:
            return value
    return (trunk or out)[-1]


def _backbone(path: Sequence[ir.Node], affected: set[ir.Value]) -> dict[ir.Value, int]:
    """The backbone's tensors and their height: 0 for those without one (a gate over channels). A tensor without the
    axes of a map (channels that are being shuffled, the rows of a head) has the height of what it was made of."""
    heights: dict[ir.Value, int] = {}
    mixed: set[ir.Value] = set()
    for node in path:
        sources = [value for value in reads(node) if value in affected]
        known = {heights[s] for s in sources if heights.get(s)}
        for value in node.outputs:
            height = _height(value)
            merges = len(known) > 1 if height is None else any(0 < h < height for h in known)
            if merges or any(s in mixed for s in sources):
                mixed.add(value)
            else:
                heights[value] = max(known, default=0) if height is None else height
    return heights


def _height(value: ir.Value) -> int | None:
    """The height of a map, 0 for a single cell, None for a tensor without the four axes of a map."""
    dims = known_dims(value)
    if dims is None or len(dims) != 4 or dims[2] is None or dims[3] is None:
        return None
    return 0 if dims[2] == 1 and dims[3] == 1 else dims[2]
