"""The layers of a network that looks at the image several times, as test-time augmentation inside the graph does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from portable_cam.errors import LayerError
from portable_cam.export.autodiff.backward import depends_on
from portable_cam.export.graph.values import reads
from portable_cam.export.layers.axes import why_lost
from portable_cam.export.layers.candidates import EVERY, LAST_READ, Layer, apart, candidates, derived_axes, image_input

_MOST = 64  # tensors that are tried beside the best one


def default_layers(graph: ir.Graph, *scores: ir.Value) -> list[ir.Value]:
    """What is explained where no layer is named: the best candidate; where it is on only some of the paths, with its
    like in the other branches, if together they are passed by every path.

    Raises:
        LayerError: There is no candidate; the message names the operator that lost the axes first.
    """
    found = candidates(graph, *scores)
    if not found:
        raise LayerError(
            f"no tensor between the image and the scores '{scores[0].name}' keeps the two dimensions of a image (a "
            "height and width above 1, on axes of their own or as tokens): this model has no layer for CAM or "
            f"Grad-CAM{_where_lost(graph, scores[0])}"
        )
    (best, layer), *others = found
    if layer.why.startswith(EVERY):
        return [best]
    if layer.why.endswith(LAST_READ):
        return _of_class_tokens(graph, best, [value for value, _ in others]) or [best]
    like = [value for value, other in others if _alike(layer, other)]
    return _parallel(graph, best, like[:_MOST], scores) or [best]


def _of_class_tokens(graph: ir.Graph, best: ir.Value, others: Sequence[ir.Value]) -> list[ir.Value] | None:
    """Of each of two branches whose class tokens read the tokens of the other, the last tokens that are read; None if
    the branches are not two."""
    nodes = list(graph)
    beside, after = apart(nodes, best, others), depends_on(nodes, [best])
    mine = [best, *(value for value in others if value in after)]
    ends = [_last(nodes, branch) for branch in (mine, beside)]
    return None if None in ends else [end for end in ends if end is not None]


def _last(nodes: Sequence[ir.Node], branch: Sequence[ir.Value]) -> ir.Value | None:
    """The last of some tensors that all others lead to, or depend on."""
    order = {value: i for i, node in enumerate(nodes) for value in node.outputs}
    ordered = sorted(branch, key=lambda value: -order[value])
    return next((value for value in ordered if not apart(nodes, value, [v for v in branch if v is not value])), None)


def _alike(a: Layer, b: Layer) -> bool:
    """What the same network makes of another view, turned or cut out of the image."""
    return (a.operator, a.channels, len(a.shape)) == (b.operator, b.channels, len(b.shape))


def _parallel(
    graph: ir.Graph, best: ir.Value, others: Sequence[ir.Value], scores: Sequence[ir.Value]
) -> list[ir.Value] | None:
    """The best candidate and others that neither lead to it nor to each other, so that no path passes none of them;
    None if there are no such others."""
    nodes = list(graph)
    chosen, behind = [best], [depends_on(nodes, [best])]
    for value in others:
        after = depends_on(nodes, [value])
        if not after & set(chosen) and not any(value in each for each in behind):
            chosen.append(value)
            behind.append(after)
    if len(chosen) == 1 or _reached(nodes, image_input(graph), set(chosen), scores):
        return None
    return [value for node in nodes for value in node.outputs if value in set(chosen)]


def _reached(
    nodes: Sequence[ir.Node], image: ir.Value, closed: Collection[ir.Value], scores: Sequence[ir.Value]
) -> bool:
    """Some path from the image to the scores passes none of the closed tensors."""
    differentiable, open_values = depends_on(nodes, [image]), {image}
    for node in nodes:
        if any(value in open_values for value in reads(node)):
            open_values.update(v for v in node.outputs if v in differentiable and v not in closed)
    return any(score in open_values for score in scores)


def _where_lost(graph: ir.Graph, score: ir.Value) -> str:
    """The first operator on the way to the scores that lost rows and columns."""
    known = derived_axes(graph)
    for node in graph:
        for value in node.outputs:
            axes = known[value].axes if value in known else None
            why = next((why for axis in axes or () if (why := why_lost(axis))), None)
            if why is not None and score in depends_on(list(graph), [value]):
                return f"; its rows and columns are not known behind {why}"
    return ""
