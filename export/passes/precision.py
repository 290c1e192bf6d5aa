"""A model computed in another floating-point type than the one it is stored in."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import PassResult

from portable_cam.export.graph.operators import FLOATS

#: The metadata key that names the type which a model had before it was widened to float32.
WIDENED = "portable_cam.widened"
#: Attributes that name an element type.
_TYPE_ATTRIBUTES = ("to", "dtype")

Precision: TypeAlias = Literal["model", "float32"]


def widen_bfloat16(model: ir.Model) -> PassResult:
    """Compute in float32 what the model computes in bfloat16, in place; the metadata keep the type it had."""
    widened = _retype(model, ir.DataType.BFLOAT16, ir.DataType.FLOAT)
    if widened:
        model.metadata_props[WIDENED] = "bfloat16"
    return PassResult(model, widened)


def to_float32(model: ir.Model) -> PassResult:
    """Compute in float32 what the model computes in float16 or float64, in place."""
    changed = [_retype(model, kind, ir.DataType.FLOAT) for kind in (ir.DataType.FLOAT16, ir.DataType.DOUBLE)]
    return PassResult(model, any(changed))


def _retype(model: ir.Model, source: ir.DataType, target: ir.DataType) -> bool:
    """Compute in ``target`` wherever the model computes in ``source``, in place: inputs, outputs, weights, constants,
    casts. Functions are inlined before. Returns whether there was anything to change."""
    changed = False
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)):
            if value.const_value is not None and value.const_value.dtype == source:
                value.const_value = _cast(value.const_value, target)
                value.dtype = target
                changed = True
            if value.dtype == source:
                value.dtype = target
                changed = True
        for node in graph:
            changed |= _retype_attributes(node, source, target)
    return changed


def float_types(graph: ir.Graph) -> list[str]:
    """The floating-point types that a graph computes in, as numpy names them."""
    values = [*graph.inputs, *(v for node in graph for v in node.outputs)]
    return sorted({value.dtype.numpy().name for value in values if value.dtype is not None and value.dtype in FLOATS})


def _retype_attributes(node: ir.Node, source: ir.DataType, target: ir.DataType) -> bool:
    changed = False
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == source:
            node.attributes[name] = ir.AttrTensor(name, _cast(attribute.as_tensor(), target))
            changed = True
        elif name in _TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT and attribute.as_int() == source:
            node.attributes[name] = ir.AttrInt64(name, int(target))
            changed = True
    return changed


def _cast(tensor: ir.TensorProtocol, target: ir.DataType) -> ir.Tensor[Any]:
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite; such maps get a warning
        return ir.Tensor(tensor.numpy().astype(target.numpy()), dtype=target, name=tensor.name)
