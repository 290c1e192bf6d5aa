# SPDX-License-Identifier: Apache-2.0
"""The masks of a ReLU as comparisons, for runtimes that may compute in a type of less range than float32.

The rule for ReLU (:mod:`portable_cam.export.autodiff.rules.relu`) masks by a HardSigmoid so steep that it is 0 or 1,
which keeps the blocked layout of ONNX Runtime's CPU provider. In float16 the slope is infinite, and the mask NaN.
"""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.autodiff.rules.relu import STEEPEST_MODEL_SLOPE
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.subgraph import replace_node
from portable_cam.export.graph.values import dtype_of, input_of


def compare_for_masks(model: ir.Model) -> None:
    """Replace each steep HardSigmoid by the comparison that it stands for, in place: x > 0 where it rises, x < the
    bound where it falls."""
    builder = Builder(model.graph, "mask")
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.op_type != "HardSigmoid" or node.domain not in ONNX_DOMAINS:
            continue
        slope, offset = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
        if abs(slope) < STEEPEST_MODEL_SLOPE:
            continue
        x, b = input_of(node, 0), builder.nested()
        holds = b.op("Greater", x, 0) if slope > 0 else b.op("Less", x, -offset / slope)
        replace_node(b, node, [b.op("Cast", holds, to=int(dtype_of(x)))])
