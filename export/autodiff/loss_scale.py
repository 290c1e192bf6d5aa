"""The gradient that the backward pass starts with, scaled where half precision would lose it on the way.

float16 has nothing below 6e-8, and few digits below 6e-5: a gradient of 1e-9, as a deep network has at its first
layers, becomes zero. The backward pass is linear in the gradient that it starts with, the seed: 2^10 instead of 1 lifts
all of it, and the result is divided by as much in float32 (loss scaling, Micikevicius et al. 2018, arXiv 1710.03740). A
power of two changes no digit. Gradients beyond 64 would overflow to infinity then: the scale is a graph input with a
default, one number or one per image, and a caller who finds an infinite map runs again with a smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from portable_cam.export.autodiff.backward import depends_on
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import dtype_of

#: The name of the scale in an explanation graph, float32 (1,) or (N,), and its default.
LOSS_SCALE = "loss_scale"
DEFAULT_SCALE = 2.0**10


def loss_scale(graph: ir.Graph, score: ir.Value, sources: Sequence[ir.Value]) -> ir.Value | None:
    """The scale, a new overridable initialiser, if the backward pass from ``score`` to one of ``sources`` goes through
    float16; else None."""
    reached = depends_on(list(graph), sources)
    if not any(value.dtype == ir.DataType.FLOAT16 for value in reached) or score not in reached:
        return None
    content = ir.Tensor(np.array([DEFAULT_SCALE], np.float32), name=LOSS_SCALE)
    scale = ir.Value(
        name=LOSS_SCALE, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([None]), const_value=content
    )
    graph.inputs.append(scale)
    graph.register_initializer(scale)
    return scale


def scaled_seed(b: Builder, score: ir.Value, scale: ir.Value | None) -> ir.Value:
    """The gradient of the score that the backward pass starts with, (N,): one, or the loss scale."""
    if scale is None:
        return b.expand_like(b.constant([1], dtype_of(score)), score)
    return b.expand_like(b.op("Cast", scale, to=int(dtype_of(score))), score)


def unscale(b: Builder, value: ir.Value, scale: ir.Value | None, rank: int) -> ir.Value:
    """A value that is linear in the gradient, (N, ...) of this rank in float32, with the loss scale divided out."""
    return value if scale is None else b.op("Div", value, b.reshape(scale, [-1, *[1] * (rank - 1)]))
