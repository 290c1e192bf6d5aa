# SPDX-License-Identifier: Apache-2.0
"""Attributes that say what holds anyway, and keep a file from runtimes that do not know them."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

from portable_cam.export.graph.operators import ONNX_DOMAINS, OPSET
from portable_cam.export.graph.values import constant_of

#: Lists whose default the standard states in words alone: one along each axis.
_ONE_EACH = frozenset({"strides", "dilations"})


def drop_idle_attributes(graph: ir.Graph, opset: int) -> None:
    """Remove the attributes that an older opset does not know, where they hold their default: as an AveragePool's
    dilations of 1, for which a file would need opset 19. The standard gives them the same meaning where they are
    absent.

    Others stay, whatever they hold: OpenCV refuses a Resize whose mode is only the default. ``allowzero`` goes where a
    Reshape has a constant shape without a zero: it says what a zero means, and not every reader knows it.
    """
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if node.domain not in ONNX_DOMAINS or not onnx.defs.has(node.op_type, opset):
            continue
        older, newer = onnx.defs.get_schema(node.op_type, opset), onnx.defs.get_schema(node.op_type, OPSET)
        for name, attribute in list(node.attributes.items()):
            unknown = name not in older.attributes and name in newer.attributes
            if unknown and _is_default(name, attribute, newer.attributes[name]):
                node.attributes.pop(name)
        if node.op_type == "Reshape" and "allowzero" in node.attributes:
            shape = constant_of(node.inputs[1])
            if shape is not None and 0 not in shape:
                node.attributes.pop("allowzero")


def _is_default(name: str, attribute: ir.Attr, declared: Any) -> bool:
    if declared.default_value.name:
        own = onnx.AttributeProto()
        own.CopyFrom(declared.default_value)
        own.ClearField("doc_string")
        return bool(ir.to_proto(attribute).SerializeToString() == own.SerializeToString())
    return name in _ONE_EACH and set(attribute.as_ints()) <= {1}
