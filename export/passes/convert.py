"""The passes of the C++ library: functions inlined, and the model converted to the one opset."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir
from onnx import inliner, version_converter
from onnx_ir.passes import PassResult

from portable_cam.errors import ModelError
from portable_cam.export.autodiff.rules import NO_GRADIENT, RULES
from portable_cam.export.graph.operators import ONNX_DOMAINS, OPSET
from portable_cam.export.graph.protos import opset_of, proto_graphs, proto_nodes
from portable_cam.export.passes.opset import add_defaults, to_opset
from portable_cam.export.read.untrusted import check_nodes

_BIG = 1024  # bytes; a larger initialiser stays out of the protobuf round trips


def inline_functions(model: ir.Model) -> PassResult:
    """The model without functions of its own. The C++ library's inliner, for that of onnx-ir takes quadratic time."""
    if not model.functions:
        return PassResult(model, False)
    return _on_proto(model, lambda proto: inliner.inline_local_functions(proto, convert_version=True))


def convert_opset(model: ir.Model) -> PassResult:
    """The model at :data:`OPSET`, the standard's functions that have no gradient rule replaced by their bodies.

    Raises:
        ModelError: It is not valid ONNX, or an operator has no form in that opset.
    """
    return _on_proto(model, _convert)


def inline_standard_functions(model: ir.Model, op_types: Collection[str]) -> PassResult:
    """The model with these operators replaced by the standard's own bodies, where it has one."""
    return _on_proto(model, lambda proto: _inline(proto, lambda op_type: op_type in op_types))


def _convert(proto: onnx.ModelProto) -> onnx.ModelProto:
    """To the opset; operators newer than it are replaced by their bodies before, for the converter does not know
    them."""
    proto = _inline(proto, lambda op_type: False)
    check_nodes(proto)
    proto = to_opset(proto, OPSET)
    current = opset_of(proto)
    if current < 9 and any(node.op_type == "Scan" for node in proto_nodes(proto.graph)):
        raise ModelError("a Scan of opset 8 has an axis of batches of its own: export the model for opset 9 or later")
    if current < OPSET:
        standard = {node.op_type for node in proto_nodes(proto.graph) if node.domain in ONNX_DOMAINS}
        if all(only_types_differ(op_type, current) for op_type in standard):
            # the converter would do no more, and builds its tables anew at each call (6 to 15 ms)
            next(o for o in proto.opset_import if o.domain in ONNX_DOMAINS).version = OPSET
        else:
            proto = version_converter.convert_version(proto, OPSET)
    if current < 11:
        _keep_old_resize(proto)
    _add_defaults_of_functions(proto)
    proto = _inline(proto, lambda op_type: op_type not in RULES and op_type not in NO_GRADIENT)
    _drop_half_stated_types(proto)
    return proto


def _drop_half_stated_types(proto: onnx.ModelProto) -> None:
    """The standard's body of SequenceMap states sequences of tensors of no type, which onnx-ir does not read."""
    for graph in proto_graphs(proto.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            element = value.type.sequence_type.elem_type
            if element.HasField("tensor_type") and not element.tensor_type.elem_type:
                value.ClearField("type")


@cache
def only_types_differ(op_type: str, opset: int) -> bool:
    """True where an operator of an older opset is the one of :data:`OPSET` but for the element types that it takes: no
    input, output, attribute or default came, went or changed. `tests/test_normalize.py` holds all of them against the
    converter."""
    if not onnx.defs.has(op_type, OPSET):
        return False
    older, newer = onnx.defs.get_schema(op_type, opset), onnx.defs.get_schema(op_type, OPSET)
    return older.since_version == newer.since_version or (not newer.deprecated and _form(older) == _form(newer))


def _form(schema: onnx.defs.OpSchema) -> tuple[object, ...]:
    """What an operator takes and gives, without element types."""
    attributes = {
        name: (attribute.type, attribute.required, attribute.default_value.SerializeToString())
        for name, attribute in schema.attributes.items()
    }
    values = [(value.option, value.is_homogeneous) for value in (*schema.inputs, *schema.outputs)]
    limits = (schema.min_input, schema.max_input, schema.min_output, schema.max_output)
    return attributes, len(schema.inputs), values, limits


def _add_defaults_of_functions(proto: onnx.ModelProto) -> None:
    """Bodies refer to attributes whether they are given or not, and onnx looks into a body even to infer a shape: one
    MeanVarianceNormalization without axes would leave the whole model without shapes."""
    for node in proto.graph.node:
        if node.domain in ONNX_DOMAINS and onnx.defs.has(node.op_type, OPSET):
            schema: Any = onnx.defs.get_schema(node.op_type, OPSET)
            if schema.has_function:
                add_defaults(node, schema)


def _keep_old_resize(proto: onnx.ModelProto) -> None:
    """Upsample and Resize before opset 11 had no coordinate modes and were asymmetric; the converter keeps the newer
    default, half_pixel. Their nearest neighbour lies below when enlarging, and above when shrinking."""
    constants = {t.name: t for t in proto.graph.initializer}
    for node in proto.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                constants[node.output[0]] = attribute.t
    for node in proto.graph.node:
        if node.op_type == "Resize" and not any(a.name == "coordinate_transformation_mode" for a in node.attribute):
            scales = constants.get(node.input[2]) if len(node.input) > 2 else None
            shrinks = scales is not None and bool((onnx.numpy_helper.to_array(scales) < 1).any())
            node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            if not any(a.name == "nearest_mode" for a in node.attribute):
                node.attribute.append(onnx.helper.make_attribute("nearest_mode", "ceil" if shrinks else "floor"))


def _inline(proto: onnx.ModelProto, wanted: Callable[[str], bool]) -> onnx.ModelProto:
    """Replace the wanted functions of the standard by their bodies, and those within the bodies."""
    before: set[tuple[str, str]] = set()
    chosen = _standard_functions(proto, wanted)
    while chosen and chosen != before:  # the inliner leaves what it has no body for under these attributes
        proto = inliner.inline_selected_functions(proto, list(chosen), inline_schema_functions=True)
        before, chosen = chosen, _standard_functions(proto, wanted)
    return proto


def _standard_functions(proto: onnx.ModelProto, wanted: Callable[[str], bool]) -> set[tuple[str, str]]:
    opset = opset_of(proto)
    chosen: set[tuple[str, str]] = set()
    for op_type in {node.op_type for node in proto_nodes(proto.graph) if node.domain in ONNX_DOMAINS}:
        if not onnx.defs.has(op_type, opset):
            raise ModelError(f"operator {op_type} does not exist in ONNX opset {opset}, which the model imports")
        schema = onnx.defs.get_schema(op_type, opset)
        has_body = bool(getattr(schema, "has_function", 0) or getattr(schema, "has_context_dependent_function", 0))
        if has_body and (wanted(op_type) or schema.deprecated):
            chosen.add(("", op_type))
    return chosen


def _on_proto(model: ir.Model, convert: Callable[[onnx.ModelProto], onnx.ModelProto]) -> PassResult:
    """Run a function of the C++ library on the model with its large weights left out, as inputs: they are not
    copied, and the model may be larger than protobuf's 2 GiB."""
    graph = model.graph
    weights: dict[str, ir.TensorProtocol] = {}
    inputs = [value.name for value in graph.inputs]
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _BIG:
            weights[name] = tensor
            value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
            value.const_value = None
            graph.initializers.pop(name)
            graph.inputs.append(value)
    converted = ir.from_proto(convert(ir.to_proto(model)))
    graph = converted.graph
    by_name = {value.name: value for value in graph.inputs}
    graph.inputs.clear()
    graph.inputs.extend(by_name[name] for name in inputs)
    for name, tensor in weights.items():
        value = by_name[name]
        value.const_value = tensor
        graph.register_initializer(value)
    return PassResult(converted, True)
