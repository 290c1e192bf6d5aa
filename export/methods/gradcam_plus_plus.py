# SPDX-License-Identifier: Apache-2.0
"""Grad-CAM++: channels weighted so that several objects of a class count alike (Chattopadhay et al. 2018)."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.casts import as_float32
from portable_cam.export.methods.gradcam import SPACE
from portable_cam.export.methods.method import Method

_EPSILON = 1e-6  # as in pytorch-grad-cam (grad_cam_plusplus.py)


def channel_weights(b: Builder, gradient: ir.Value, activation: ir.Value) -> ir.Value:
    """w_c = sum(relu(g_c) alpha_c) with alpha_c = g^2 / (2 g^2 + sum(A_c) g^3), (N, C, h, w) twice -> (N, C).

    Equation 19 for a score that enters through an exponential, as every implementation has it; alpha is zero where the
    gradient is.
    """
    gradient, activation = as_float32(b, gradient), as_float32(b, activation)
    square = b.op("Mul", gradient, gradient)
    total = b.op("ReduceSum", activation, b.ints(SPACE), keepdims=1)
    cubic = b.op("Mul", total, b.op("Mul", square, gradient))
    divisor = b.op("Add", b.op("Add", b.op("Mul", square, 2), cubic), _EPSILON)
    alpha = b.op("Where", b.op("Equal", gradient, 0), b.constant(0, ir.DataType.FLOAT), b.op("Div", square, divisor))
    return b.op("ReduceSum", b.op("Mul", b.op("Relu", gradient), alpha), b.ints(SPACE), keepdims=0)


gradcam_plus_plus = Method(
    "gradcam_plus_plus",
    title="Grad-CAM++",
    summary="as gradcam, with weights under which several objects of a class count alike",
    paper="Chattopadhay et al. 2018, arXiv 1710.11063",
    channel_weights=channel_weights,
    in_gradient="nonlinear",
    kernel="gradcam_plus_plus",
)
