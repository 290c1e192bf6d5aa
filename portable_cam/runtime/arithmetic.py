# SPDX-License-Identifier: Apache-2.0
"""Whether ONNX Runtime computes quantised models exactly on this processor."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir

from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of
from portable_cam.runtime.session import Session

#: What a reader of the maps should know where :func:`adds_bytes_exactly` is false.
INEXACT = (
    "this processor computes quantised layers inexactly: ONNX Runtime adds products of uint8 and int8 in 16 bits (AVX2 "
    "without VNNI), where sums overflow. Another processor gives other scores and maps"
)
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_INTEGER_PRODUCTS = frozenset({"ConvInteger", "MatMulInteger"})


@cache
def adds_bytes_exactly() -> bool:
    """False where a quantised convolution of uint8 with int8 adds pairs of products in 16 bits, which overflow: with
    AVX2 and without VNNI. Measured once, by a convolution of one pixel."""
    x, w = np.full((1, 8, 1, 1), 255, np.uint8), np.full((1, 8, 1, 1), 127, np.int8)
    exact = 8 * 255 * 127
    constants = {"one": np.float32(1), "zero": np.uint8(0), "w": w, "wz": np.int8(0), "scale": np.float32(exact / 200)}
    known = {
        name: ir.Value(name=name, const_value=ir.tensor(np.asarray(v), name=name)) for name, v in constants.items()
    }
    image = ir.Value(name="x", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(x.shape))
    order = [image, *(known[name] for name in ("one", "zero", "w", "one", "wz", "scale", "zero"))]
    node = ir.node("QLinearConv", order)
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.UINT8), ir.Shape([1, 1, 1, 1])
    graph = ir.Graph(
        [image], [y], nodes=[node], initializers=list(known.values()), opset_imports={"": 17}, name="probe"
    )
    return int(Session(ir.Model(graph, ir_version=8)).run({"x": x})["y"][0, 0, 0, 0]) == 200


def has_mixed_bytes(graph: ir.Graph) -> bool:
    """Whether some layer multiplies activations in uint8 with weights in int8."""
    return any(_mixes(node) for node in graph if node.domain in ONNX_DOMAINS)


def _mixes(node: ir.Node) -> bool:
    if node.op_type in _INTEGER_PRODUCTS:
        types = {value.dtype for value in node.inputs[:2] if value is not None}
    elif node.op_type in _PRODUCTS:
        sources = [value.producer() for value in node.inputs[:2] if value is not None]
        if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
            return False
        read = [source.inputs[0] for source in sources if source is not None]
        types = {value.dtype for value in read if value is not None}
        if all(constant_of(value) is None for value in read):
            return False
    else:
        return False
    return types == {ir.DataType.UINT8, ir.DataType.INT8}


def inexact_here(graph: ir.Graph) -> bool:
    """Whether the layers of a graph are computed inexactly on this processor."""
    return has_mixed_bytes(graph) and not adds_bytes_exactly()
