"""Reading protobufs, for the passes of the C++ library, which work on no other form."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from portable_cam.export.graph.operators import ONNX_DOMAINS


def proto_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from proto_nodes(attribute.g)
            for inner in attribute.graphs:
                yield from proto_nodes(inner)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the ONNX standard that a model imports."""
    return next(int(imported.version) for imported in model.opset_import if imported.domain in ONNX_DOMAINS)
