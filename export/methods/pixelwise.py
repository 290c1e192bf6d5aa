# SPDX-License-Identifier: Apache-2.0
"""Maps whose weights differ from pixel to pixel of the layer: each element is weighted with its own gradient."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.casts import as_float32
from portable_cam.export.graph.values import known_dims
from portable_cam.export.methods.method import Method


def _summed(b: Builder, weights: ir.Value, activation: ir.Value, *, relu: bool = False) -> ir.Value:
    """sum_c w_c A_c, or sum_c relu(w_c A_c), of (N, C, h, w) twice -> (N, h, w) in float32."""
    products = b.op("Mul", weights, as_float32(b, activation))
    dims = known_dims(activation)
    total = b.op("ReduceSum", b.op("Relu", products) if relu else products, b.ints([1]), keepdims=0)
    total.shape = None if dims is None else ir.Shape([dims[0], *dims[2:]])
    return total


def _layercam(b: Builder, gradient: ir.Value, activation: ir.Value) -> ir.Value:
    return _summed(b, b.op("Relu", as_float32(b, gradient)), activation)


def _hirescam(b: Builder, gradient: ir.Value, activation: ir.Value) -> ir.Value:
    return _summed(b, as_float32(b, gradient), activation)


def _elementwise_gradcam(b: Builder, gradient: ir.Value, activation: ir.Value) -> ir.Value:
    return _summed(b, as_float32(b, gradient), activation, relu=True)


layercam = Method(
    "layercam",
    title="LayerCAM",
    summary="the feature map weighted pixel by pixel with the positive gradient",
    paper="Jiang et al. 2021, IEEE TIP 30, equation 6",
    pixel_map=_layercam,
    in_gradient="homogeneous",
    kernel="layercam",
)
hirescam = Method(
    "hirescam",
    title="HiResCAM",
    summary="the feature map weighted pixel by pixel with the gradient as it is",
    paper="Draelos and Carin 2020, arXiv 2011.08891",
    pixel_map=_hirescam,
    kernel="hirescam",
)
elementwise_gradcam = Method(
    "elementwise_gradcam",
    title="Element-wise Grad-CAM",
    summary="as hirescam, the negative products of gradient and feature map left out",
    paper="pytorch-grad-cam, GradCAMElementWise",
    pixel_map=_elementwise_gradcam,
    in_gradient="homogeneous",
    kernel="elementwise_gradcam",
)
