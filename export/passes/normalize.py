"""Any ONNX model to the one form that rules, targets and heads are written for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx import inliner, version_converter
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules.common import fuse_pad_into_conv_rule

from portable_cam.errors import ModelError
from portable_cam.export.autodiff.rules import NO_GRADIENT, RULES
from portable_cam.export.graph.operators import ONNX_DOMAINS, OPSET
from portable_cam.export.graph.shapes import complete_shapes
from portable_cam.export.passes.contrib import adopt, decompose
from portable_cam.export.passes.opset import add_defaults, to_opset
from portable_cam.export.passes.precision import retype
from portable_cam.export.passes.quantized.qoperator import rewrite_qoperators
from portable_cam.export.passes.quantized.unsigned import make_unsigned
from portable_cam.export.passes.recurrent_layout import make_time_major
from portable_cam.export.passes.static import forget_types, resolve, say_what_is_left
from portable_cam.export.read.load import ModelLike, load
from portable_cam.export.read.untrusted import check_functions, check_loops, check_nodes, check_sizes, may_fold

#: The metadata key that names the type which a model had before it was widened to float32.
WIDENED = "portable_cam.widened"
_IR_VERSION = 10  # the one that came with opset 21
_ROUNDS = 16  # of loops in loops, sequences in them, and what is constant behind those
_BIG = 1024  # bytes; a larger initialiser stays out of the protobuf round trips


def normalize(model: ModelLike) -> ir.Model:
    """One operator set, functions inlined, constants folded, shapes inferred, initialisers out of the inputs.

    The outputs are unchanged up to float32 rounding, the names of inputs, outputs and the tensors between them are
    kept where the tensor still exists, and a symbolic batch stays symbolic. A model in bfloat16 is computed in
    float32, inputs and outputs included.

    Raises:
        ModelError: The model cannot be read, or cannot be converted to opset 21.
    """
    loaded = load(model)
    try:
        return _normalized(loaded)
    except ModelError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"the model cannot be brought to ONNX opset {OPSET}: {first}") from error


def _normalized(model: ir.Model) -> ir.Model:
    _open_negative_dims(model.graph)
    model.ir_version = _IR_VERSION  # an older one takes no initialiser that is not an input
    passes.RemoveInitializersFromInputsPass()(model)
    check_functions(model)
    if model.functions:  # the C++ library's inliner, for that of onnx-ir takes quadratic time
        model = _on_proto(model, lambda proto: inliner.inline_local_functions(proto, convert_version=True))
    # every bfloat16 is a float32; convolution and pooling of this opset take none, and CPU providers take it nowhere
    widened = retype(model, ir.DataType.BFLOAT16, ir.DataType.FLOAT)
    adopt(model)
    model = _on_proto(model, _convert)
    check_loops(model)
    rewrite_qoperators(model.graph)
    make_time_major(model)
    decompose(model)
    _fold(model)
    if any(node.op_type == "If" for node in model.graph):
        # a condition on a size, as torch's older exporter writes for squeeze, is constant only once sizes are inferred
        _fold(model)
    for _ in range(_ROUNDS):
        if not resolve(model):
            break
        _fold(model)
    say_what_is_left(model.graph)
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.shape is None:
            value.shape, value.dtype = ir.Shape(value.const_value.shape.numpy()), value.const_value.dtype
    make_unsigned(model.graph)
    model.ir_version = _IR_VERSION
    check_sizes(model.graph)
    if widened:
        model.metadata_props[WIDENED] = "bfloat16"
    return model


def _fold(model: ir.Model) -> None:
    """Compute what is constant, and infer shapes."""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    splits = [n for n in ir.traversal.RecursiveGraphIterator(model.graph) if n.op_type == "SplitToSequence"]
    for node in splits:  # the folding stops at one whose sizes are not known
        node.domain = "kept"
    optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=may_fold)
    for node in splits:
        node.domain = ""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.LiftSubgraphInitializersToMainGraphPass()(model)
    rewriter.rewrite(model, [fuse_pad_into_conv_rule])  # the adjoint of a Pad of its own would cost a Slice
    passes.RemoveUnusedNodesPass()(model)
    passes.NameFixPass()(model)
    passes.ShapeInferencePass()(model)
    complete_shapes(model.graph)
    forget_types(model.graph)


def _open_negative_dims(graph: ir.Graph) -> None:
    """A size below zero, as PaddlePaddle writes for an open batch, becomes an open dimension."""
    for value in (*graph.inputs, *graph.outputs, *(v for node in graph for v in node.outputs)):
        if value.shape is not None and any(isinstance(d, int) and d < 0 for d in value.shape.dims):
            value.shape = ir.Shape([None if isinstance(d, int) and d < 0 else d for d in value.shape.dims])


def _convert(proto: onnx.ModelProto) -> onnx.ModelProto:
    """To the one opset; functions that have no rule of their own are replaced by their bodies, newer ones than the
    opset before the conversion, for it does not know them."""
    proto = _inline(proto, lambda op_type: False)
    check_nodes(proto)
    proto = to_opset(proto, OPSET)
    current = next(o.version for o in proto.opset_import if o.domain in {"", "ai.onnx"})
    if current < 9 and any(node.op_type == "Scan" for node in _every_node(proto.graph)):
        raise ModelError("a Scan of opset 8 has an axis of batches of its own: export the model for opset 9 or later")
    if current != OPSET:
        proto = version_converter.convert_version(proto, OPSET)
    if current < 11:
        _keep_old_resize(proto)
    _write_out_defaults(proto)
    return _inline(proto, lambda op_type: op_type not in RULES and op_type not in NO_GRADIENT)


def _write_out_defaults(proto: onnx.ModelProto) -> None:
    """Bodies refer to attributes whether they are given or not, and onnx looks into a body even to infer a shape: one
    MeanVarianceNormalization without axes would leave the whole model without shapes."""
    for node in proto.graph.node:
        if node.domain in ONNX_DOMAINS and onnx.defs.has(node.op_type, OPSET):
            schema: Any = onnx.defs.get_schema(node.op_type, OPSET)
            if schema.has_function:
                add_defaults(node, schema)


def _keep_old_resize(proto: onnx.ModelProto) -> None:
    """Upsample and Resize before opset 11 had no coordinate modes and were asymmetric; the converter leaves the newer
    default, half_pixel, standing. Their nearest neighbour lies below when enlarging, and above when shrinking."""
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


def _every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _every_node(inner)


def _inline(proto: onnx.ModelProto, wanted: Callable[[str], bool]) -> onnx.ModelProto:
    """Replace the wanted functions of the standard by their bodies, and those within the bodies."""
    before: set[tuple[str, str]] = set()
    chosen = _functions(proto, wanted)
    while chosen and chosen != before:  # the inliner leaves what it has no body for under these attributes
        proto = inliner.inline_selected_functions(proto, list(chosen), inline_schema_functions=True)
        before, chosen = chosen, _functions(proto, wanted)
    return proto


def _functions(proto: onnx.ModelProto, wanted: Callable[[str], bool]) -> set[tuple[str, str]]:
    opset = next(o.version for o in proto.opset_import if o.domain in {"", "ai.onnx"})
    chosen: set[tuple[str, str]] = set()
    for op_type in {node.op_type for node in _every_node(proto.graph) if node.domain in {"", "ai.onnx"}}:
        if not onnx.defs.has(op_type, opset):
            raise ModelError(f"operator {op_type} does not exist in ONNX opset {opset}, which the model imports")
        schema = onnx.defs.get_schema(op_type, opset)
        has_body = bool(getattr(schema, "has_function", 0) or getattr(schema, "has_context_dependent_function", 0))
        if has_body and (wanted(op_type) or schema.deprecated):
            chosen.add(("", op_type))
    return chosen


def _on_proto(model: ir.Model, convert: Callable[[onnx.ModelProto], onnx.ModelProto]) -> ir.Model:
    """Run a function of the C++ library on the model with its large weights left out, as inputs: they are not
    copied, and a model over protobuf's 2 GiB passes."""
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
    return converted
