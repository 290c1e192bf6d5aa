"""The nodes in the way of a gradient, and the ways around each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from portable_cam.export.autodiff.backward import depends_on, path_to
from portable_cam.export.autodiff.rules import has_no_gradient, has_rule
from portable_cam.export.graph.operators import FLOATS, ONNX_DOMAINS
from portable_cam.export.graph.refusals import refusal
from portable_cam.export.graph.subgraph import captures
from portable_cam.export.graph.values import reads, subgraphs
from portable_cam.spelling import option


@dataclass(frozen=True)
class Obstacle:
    """A node without a gradient rule on the path from the image to the scores; ``why``, if there is a reason;
    ``ways_out``, what to do about it."""

    node: str
    operator: str
    path: str
    why: str = ""
    ways_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """An obstacle, its node, and the node of the whole graph in whose subgraphs that stands, or the same."""

    node: ir.Node
    outermost: ir.Node
    obstacle: Obstacle


def find_obstacles(graph: ir.Graph, source: ir.Value, scores: Iterable[ir.Value]) -> list[Obstacle]:
    """The nodes without a rule on a path from ``source`` to the scores, in the graph's order; those in a loop's body
    or in a branch too."""
    return [found.obstacle for found in _in_the_way(list(graph), [source], scores)]


def obstacles_with_ways_out(
    graph: ir.Graph, image: ir.Value, scores: Iterable[ir.Value], layers: Iterable[ir.Value]
) -> list[Obstacle]:
    """As :func:`find_obstacles` from the image on, each with its ways out; ``layers`` are the candidates, best
    first."""
    nodes = list(graph)
    found = _in_the_way(nodes, [image], scores)
    if not found:
        return []
    stands = {one.outermost for one in found}
    leads_there: set[ir.Value] = set()
    for node in reversed(nodes):
        if node in stands or any(output in leads_there for output in node.outputs):
            leads_there.update(reads(node))
    free = next((str(value.name) for value in layers if value not in leads_there), None)
    affected = depends_on(nodes, [image]) - {image}
    return [replace(one.obstacle, ways_out=_ways_out(one, free, affected)) for one in found]


def _ways_out(one: _Found, free: str | None, affected: set[ir.Value]) -> list[str]:
    ways = []
    if free is not None:
        ways.append(
            f"explain a layer behind it, {option('layer', free)}, with a method that needs no gradient of the image, "
            "as gradcam"
        )
    before = next((v for v in reads(one.outermost) if v in affected and v.dtype in FLOATS), None)
    if before is not None:
        ways.append(f"choose the tensor before it: {option('output', before.name)}")
    if one.node.domain.startswith("com.microsoft"):
        ways.append("export the model again without optimisation or fusion: this operator is an optimiser's")
    elif one.node.domain not in ONNX_DOMAINS:
        ways.append("export the model again with standard operators, or with the operator as an ONNX function")
    else:
        ways.append("export the model again without it, without optimisation or fusion")
    return ways


def _in_the_way(
    nodes: Sequence[ir.Node],
    sources: Sequence[ir.Value],
    ends: Iterable[ir.Value],
    before: str = "",
    outermost: ir.Node | None = None,
) -> list[_Found]:
    affected = depends_on(nodes, sources)
    behind = set(ends)
    found: list[_Found] = []
    for node in reversed(nodes):
        if not any(output in behind for output in node.outputs) or not any(v in affected for v in reads(node)):
            continue
        if has_no_gradient(node) and not any(output in affected for output in node.outputs):
            continue
        behind.update(reads(node))
        path = before + " -> ".join(path_to(node, nodes, sources))
        if not has_rule(node, [o for o in node.outputs if o in behind and o in affected]):
            operator = f"{node.domain or 'ai.onnx'}::{node.op_type}"
            obstacle = Obstacle(str(node.name), operator, path, refusal(node) or "")
            found.append(_Found(node, outermost or node, obstacle))
            continue
        for graph in subgraphs(node):
            outside = [value for value in captures(node) if value in affected]
            inner = [*(value for value in graph.inputs if value.dtype in FLOATS), *outside]
            found += reversed(_in_the_way(list(graph), inner, graph.outputs, f"{path} -> ", outermost or node))
    return list(reversed(found))
