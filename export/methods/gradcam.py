# SPDX-License-Identifier: Apache-2.0
"""Grad-CAM: each channel of the layer weighted with the mean gradient of the score (Selvaraju et al. 2017)."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.casts import as_float32
from portable_cam.export.graph.values import known_dims, static_dim
from portable_cam.export.methods.method import Method

#: Height and width in (N, C, h, w).
SPACE = (2, 3)


def channel_weights(b: Builder, gradient: ir.Value, _: ir.Value | None = None) -> ir.Value:
    """The mean gradient over space in float32, (N, C, h, w) -> (N, C); equation 1."""
    producer, channels = gradient.producer(), static_dim(gradient, 1) if gradient.shape is not None else None
    small = producer.inputs[0] if gradient.meta.get("spread") and producer is not None else None
    if small is None or channels is None:
        return b.op("ReduceMean", as_float32(b, gradient), b.ints(SPACE), keepdims=0)
    # constant along some axes, as before a global average pool: what is repeated need not be written to be averaged
    mean = b.op("ReduceMean", as_float32(b, small), b.ints(SPACE), keepdims=0)
    return b.op("Expand", mean, b.ints([1, channels]))


def weighted_sum(b: Builder, weights: ir.Value, activation: ir.Value) -> ir.Value:
    """sum_c w[n, k, c] A[n, c]: (N, K, C), (N, C, h, w) -> (N, K, h, w); equation 2 before its ReLU."""
    flat = b.op("Reshape", activation, b.ints([0, 0, -1]))
    maps = b.op("MatMul", weights, flat)
    dims = known_dims(activation)
    size = [None, None] if dims is None else dims[2:]
    if None not in size:
        return b.reshape(maps, [0, 0, *(d for d in size if d is not None)])
    space = b.op("Shape", activation, start=2)
    return b.op("Reshape", maps, b.op("Concat", b.ints([0, 0]), space, axis=0))


gradcam = Method(
    "gradcam",
    title="Grad-CAM",
    summary="the feature map weighted by the mean gradient of the score",
    paper="Selvaraju et al. 2017, arXiv 1610.02391",
    channel_weights=channel_weights,
    kernel="gradcam",
)
