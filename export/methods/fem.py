# SPDX-License-Identifier: Apache-2.0
"""FEM: channels weighted by how much of them stands out (Fuad et al. 2020)."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.casts import as_float32
from portable_cam.export.graph.values import known_dims
from portable_cam.export.methods.gradcam import SPACE
from portable_cam.export.methods.method import Method

_SIGMAS = 2.0  # the paper's K


def _fem(b: Builder, activation: ir.Value) -> ir.Value:
    """sum_c w_c A_c, w_c the share of channel c that is above its mean by two standard deviations."""
    a = as_float32(b, activation)
    mean = b.op("ReduceMean", a, b.ints(SPACE), keepdims=1)
    off = b.op("Sub", a, mean)
    spread = b.op("Sqrt", b.op("ReduceMean", b.op("Mul", off, off), b.ints(SPACE), keepdims=1))
    outstanding = b.op("Cast", b.op("Greater", off, b.op("Mul", spread, _SIGMAS)), to=int(ir.DataType.FLOAT))
    weights = b.op("ReduceMean", outstanding, b.ints(SPACE), keepdims=1)
    total = b.op("ReduceSum", b.op("Mul", weights, a), b.ints([1]), keepdims=0)
    dims = known_dims(activation)
    total.shape = None if dims is None else ir.Shape([dims[0], *dims[2:]])
    return total


fem = Method(
    "fem",
    title="FEM",
    summary="the feature map weighted by how much of a channel stands out; the same for every class",
    paper="Fuad et al. 2020, hal-02963298",
    activation_map=_fem,
)
