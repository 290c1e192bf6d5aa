# SPDX-License-Identifier: Apache-2.0
"""A model in half precision, by the converter that ONNX Runtime ships."""

from __future__ import annotations

import warnings
from typing import Any

import onnx
import onnx_ir as ir

from portable_cam.errors import ModelError
from portable_cam.export.passes.normalized import AnyModel, normalized
from portable_cam.export.read.weights import fits
from portable_cam.spelling import option


def to_float16(model: AnyModel) -> onnx.ModelProto:
    """The model with float16 weights and activations; its inputs keep their types, its float outputs become float16.

    Raises:
        ModelError: The model cannot be converted, or is quantised: its scales are float32.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    loaded = normalized(model).original()
    if not fits(loaded):
        raise ModelError("a model above 2 GiB cannot be converted to float16: convert it before")
    quantised = next((n for n in ir.traversal.RecursiveGraphIterator(loaded.graph) if _is_quantised(n)), None)
    if quantised is not None:
        raise ModelError(
            f"a quantised model is not converted to float16 (node '{quantised.name}', {quantised.op_type}): "
            f"its integers are computed as they are; leave out {option('precision')}"
        )
    proto: Any = ir.to_proto(loaded)
    inputs = [value.name for value in proto.graph.input]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of each constant that is below the least half
            converted = ir.from_proto(convert_float_to_float16(proto, keep_io_types=inputs))
    except Exception as error:  # of many kinds
        raise ModelError(f"the model cannot be converted to float16: {error}") from error
    converted.graph.sort()  # the converter appends the casts of the inputs at the end
    result: onnx.ModelProto = ir.to_proto(converted)
    return result


def _is_quantised(node: ir.Node) -> bool:
    kind = node.op_type
    return kind.startswith("QLinear") or kind.endswith(("QuantizeLinear", "DequantizeLinear", "Integer"))
