"""Replaces the contrib operators that have a decomposition by the standard's operators."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes import PassResult

from portable_cam.errors import UnsupportedOperatorError
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import ONNX_DOMAINS, key_of
from portable_cam.export.graph.refusals import refuse
from portable_cam.export.graph.shapes import infer_shapes
from portable_cam.export.graph.subgraph import replace_node
from portable_cam.export.passes.contrib.registry import DECOMPOSITIONS, DOMAIN, Contrib


def adopt_contrib(model: ir.Model) -> PassResult:
    """Give ONNX Runtime's own operators their own domain where it writes them into the standard's, whose imported
    version does not have them, and import each domain that is used, which its optimiser for transformers forgets. In
    place; the converter of versions would stop at either."""
    opset, changed = model.opset_imports.get("", 0), False
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        named = node.domain in ONNX_DOMAINS and f"{DOMAIN}::{node.op_type}" in DECOMPOSITIONS
        if named and not onnx.defs.has(node.op_type, opset):
            node.domain = DOMAIN
            changed = True
        if node.domain not in ONNX_DOMAINS and node.domain not in model.opset_imports:
            model.opset_imports[node.domain] = 1
            changed = True
    return PassResult(model, changed)


def decompose_contrib(model: ir.Model) -> PassResult:
    """Replace the nodes that have a decomposition by standard ones, in the model and its subgraphs.

    The names of their outputs stay. A node whose options have no decomposition stays as it is, with the reason
    (:func:`portable_cam.export.graph.refusals.refusal`).
    """
    everything = list(ir.traversal.RecursiveGraphIterator(model.graph))
    if not any(_key(node) in DECOMPOSITIONS for node in everything):
        return PassResult(model, False)
    builder, changed = Builder(model.graph, "decomposed"), False
    waiting: list[ir.Node] = []  # nodes whose shapes are not inferred yet, so that each is inferred once
    for node in everything:
        if _key(node) not in DECOMPOSITIONS:
            waiting.append(node)
            continue
        infer_shapes(waiting)
        try:
            waiting = _replace(builder, node)
            changed = True
        except UnsupportedOperatorError as error:
            refuse(node, str(error))
            waiting = []
    return PassResult(model, changed)


def _replace(builder: Builder, node: ir.Node) -> list[ir.Node]:
    """Replace a node by its decomposition; returns the new nodes."""
    inner = builder.nested()
    written = DECOMPOSITIONS[_key(node)](Contrib(inner, node))
    values = [written] if isinstance(written, ir.Value) else list(written)
    for output in node.outputs[len(values) :]:
        if output.uses() or output.is_graph_output():
            raise UnsupportedOperatorError(f"its output '{output.name}' is used")
    for i, new in enumerate(inner.graph):
        new.name = f"{node.name}/{new.op_type}" + (f"_{i}" if i else "")
    nodes = list(inner.graph)
    replace_node(inner, node, values)
    return nodes


def _key(node: ir.Node) -> str:
    return key_of(node.domain, node.op_type)
