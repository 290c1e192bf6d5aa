# SPDX-License-Identifier: Apache-2.0
"""Eigen-CAM and EigenGrad-CAM: the first principal component of the feature map, and of its product with the gradient.

A component has no sign of its own. Here its greatest deviation is positive (Eigen-CAM, as Chung and Ying 2025 have it,
doi 10.3390/app15137562), or it agrees with the sum of the products over the channels (EigenGrad-CAM, so that it turns
with the gradient). Other implementations leave the sign to their linear algebra.
"""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.casts import as_float32
from portable_cam.export.graph.values import known_dims
from portable_cam.export.methods.method import Method
from portable_cam.export.methods.principal import first_component


def _eigencam(b: Builder, activation: ir.Value) -> ir.Value:
    flat = first_component(b, activation)
    high = b.op("ReduceMax", flat, b.ints([1]), keepdims=1)
    low = b.op("ReduceMin", flat, b.ints([1]), keepdims=1)
    turned = b.op("Greater", b.op("Neg", low), high)
    return _as_map(b, b.op("Where", turned, b.op("Neg", flat), flat), activation)


def _eigen_gradcam(b: Builder, gradient: ir.Value, activation: ir.Value) -> ir.Value:
    products = b.op("Mul", as_float32(b, gradient), as_float32(b, activation))
    products.shape = activation.shape
    flat = first_component(b, products)
    total = b.op("Reshape", b.op("ReduceSum", products, b.ints([1]), keepdims=0), b.ints([0, -1]))
    agreement = b.op("ReduceSum", b.op("Mul", flat, total), b.ints([1]), keepdims=1)
    return _as_map(b, b.op("Where", b.op("Less", agreement, 0), b.op("Neg", flat), flat), activation)


def _as_map(b: Builder, flat: ir.Value, activation: ir.Value) -> ir.Value:
    dims = known_dims(activation)
    size = [None, None] if dims is None else dims[2:]
    if None not in size:
        made = b.reshape(flat, [0, *(d for d in size if d is not None)])
    else:
        space = b.op("Shape", activation, start=2)
        made = b.op("Reshape", flat, b.op("Concat", b.ints([0]), space, axis=0))
    made.shape = None if dims is None else ir.Shape([dims[0], *size])
    return made


eigencam = Method(
    "eigencam",
    title="Eigen-CAM",
    summary="the first principal component of the feature map; the same for every class",
    paper="Muhammad and Yeasin 2020, arXiv 2008.00299",
    activation_map=_eigencam,
)
eigen_gradcam = Method(
    "eigen_gradcam",
    title="EigenGrad-CAM",
    summary="the first principal component of the feature map times its gradient",
    paper="pytorch-grad-cam, EigenGradCAM",
    pixel_map=_eigen_gradcam,
)
