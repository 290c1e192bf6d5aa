# SPDX-License-Identifier: Apache-2.0
"""Guided Grad-CAM: fine detail where the class is (Selvaraju et al. 2017, section 3.2)."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.methods.method import Method


def product(b: Builder, gradient: ir.Value, wide: ir.Value, channel_axis: int) -> ir.Value:
    """An input gradient (N, K, C, H, W) or (N, K, H, W, C) times a map (N, K, H, W)."""
    return b.op("Mul", gradient, b.op("Unsqueeze", wide, b.ints([channel_axis + 1])))


guided_gradcam = Method(
    "guided_gradcam",
    title="Guided Grad-CAM",
    summary="guided_backprop times the upsampled map of gradcam",
    paper="Selvaraju et al. 2017, arXiv 1610.02391",
    factors=("guided_backprop", "gradcam"),
    in_gradient="nonlinear",
)
