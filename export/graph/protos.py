"""Reading protobufs, for the passes of the C++ library, which work on no other form."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from portable_cam.export.graph.operators import ONNX_DOMAINS


def proto_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and its subgraphs."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from proto_graphs(inner)


def proto_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of its subgraphs."""
    return (node for part in proto_graphs(graph) for node in part.node)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the ONNX standard that a model imports."""
    return next(int(imported.version) for imported in model.opset_import if imported.domain in ONNX_DOMAINS)
