# SPDX-License-Identifier: Apache-2.0
"""Element types of what methods compute with."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import HALVES


def as_float32(b: Builder, value: ir.Value) -> ir.Value:
    """The value cast to float32, or itself where it is float32."""
    return value if value.dtype == ir.DataType.FLOAT else b.op("Cast", value, to=int(ir.DataType.FLOAT))


def as_kernel_float(b: Builder, value: ir.Value) -> ir.Value:
    """The value in a type that the kernels read: float64 cast to float32, float32 and halves as they are."""
    return value if value.dtype in {ir.DataType.FLOAT, *HALVES} else as_float32(b, value)
