# SPDX-License-Identifier: Apache-2.0
"""XGrad-CAM: channels weighted by the gradient averaged with the activation (Fu et al. 2020)."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.casts import as_float32
from portable_cam.export.methods.gradcam import SPACE
from portable_cam.export.methods.method import Method

_EPSILON = 1e-7  # as in pytorch-grad-cam (xgrad_cam.py)


def channel_weights(b: Builder, gradient: ir.Value, activation: ir.Value) -> ir.Value:
    """w_c = sum(g_c A_c) / sum(A_c), (N, C, h, w) twice -> (N, C); equation 8."""
    gradient, activation = as_float32(b, gradient), as_float32(b, activation)
    products = b.op("ReduceSum", b.op("Mul", gradient, activation), b.ints(SPACE), keepdims=0)
    total = b.op("ReduceSum", activation, b.ints(SPACE), keepdims=0)
    return b.op("Div", products, b.op("Add", total, _EPSILON))


xgradcam = Method(
    "xgradcam",
    title="XGrad-CAM",
    summary="as gradcam, with the gradient averaged in proportion to the activation",
    paper="Fu et al. 2020, arXiv 2008.02312",
    channel_weights=channel_weights,
    kernel="xgradcam",
)
