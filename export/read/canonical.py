# SPDX-License-Identifier: Apache-2.0
"""Writes the same model in the one way that the libraries used here take.

ONNX Runtime loads files that the standard does not allow: nodes in any order, a graph without a name, the standard's
domain under its long name, an output listed twice.
"""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.errors import ModelError
from portable_cam.export.graph.operators import ONNX_DOMAINS


def canonical(model: ir.Model) -> ir.Model:
    """The model itself, changed in place: nodes in the order of their use, each output once, the standard's domain
    without a name.

    Raises:
        ModelError: Nodes wait for one another.
    """
    model.graph.name = model.graph.name or "model"
    holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for holder in holders:
        imports = holder.opset_imports
        versions = [imports.pop(domain) for domain in sorted(ONNX_DOMAINS) if domain in imports]
        if versions:
            imports[""] = versions[0]
        for node in ir.traversal.RecursiveGraphIterator(holder):
            if node.domain in ONNX_DOMAINS:
                node.domain = ""
        try:
            holder.sort()
        except ValueError:
            raise ModelError("the model's nodes wait for one another in a circle: it is damaged") from None
    once = list(dict.fromkeys(model.graph.outputs))
    if len(once) < len(model.graph.outputs):
        model.graph.outputs.clear()
        model.graph.outputs.extend(once)
    return model
