# SPDX-License-Identifier: Apache-2.0
"""What a written explanation states of the tensors inside it."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from portable_cam.export.read.weights import apart


def strip_inner_shapes(model: ir.Model) -> None:
    """Remove the types and shapes inside the graph that every runtime infers again: written down they are a tenth
    of a small quantised model's file. For a model to be written alone, since telling them apart takes an inference.

    What onnx does not infer stays: without it ONNX Runtime cannot tell which tensors are of one size, and reuses less
    memory (EfficientNet-lite0, guided: a quarter more time).
    """
    inside = _inside(model)
    known = {str(value.name): (value.type, value.shape) for value in inside}
    strip_all_inner_shapes(model)
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(apart(model).proto)).graph
    again = {str(v.name): (v.type, v.shape) for n in ir.traversal.RecursiveGraphIterator(inferred) for v in n.outputs}
    for value in inside:
        type_, shape = known[str(value.name)]
        its_type, its_shape = again.get(str(value.name), (None, None))
        if its_type != type_ or _says_more(shape, its_shape):
            value.type, value.shape = type_, shape


def strip_all_inner_shapes(model: ir.Model) -> None:
    """Remove all types and shapes inside the graph, for runtimes that take a symbolic one for a contradiction."""
    weights = [value for value in model.graph.initializers.values() if not value.is_graph_input()]
    for value in (*_inside(model), *weights):  # of a weight, the tensor says both
        value.type = value.shape = None
        value.metadata_props.clear()


def _inside(model: ir.Model) -> list[ir.Value]:
    """The tensors that nodes make, but for the outputs of a graph."""
    graph = model.graph
    interface = {id(value) for inner in [graph, *graph.subgraphs()] for value in inner.outputs}
    return [v for node in ir.traversal.RecursiveGraphIterator(graph) for v in node.outputs if id(v) not in interface]


def _says_more(shape: ir.Shape | None, than: ir.Shape | None) -> bool:
    """Whether a shape has a size, or the name of one, that another has not."""
    if shape is None or than is None or len(shape) != len(than):
        return shape is not None
    pairs = zip(shape.dims, than.dims, strict=True)
    return any(a != b for a, b in pairs if isinstance(a, int) or a.value is not None)
