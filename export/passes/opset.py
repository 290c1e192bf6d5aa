"""Models of an operator set newer than the one that rules are written for.

Most newer versions of an operator only take more types, so that relabelling is all there is to do. Operators that did
not exist yet become functions: the standard's own body where it has one, else one from the table below, in ONNX's text
form. Any other operator is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, TypeProto, inliner, parser

from portable_cam.errors import ModelError
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.protos import proto_nodes

_DOMAIN = "portable_cam.older"
_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_FLOATS = _HALVES | {TensorProto.FLOAT, TensorProto.DOUBLE}


@dataclass(frozen=True)
class Call:
    """The node that a body replaces: its attributes, the element type of the first input (0 if unknown), and the number
    of inputs."""

    attributes: Mapping[str, Any]
    dtype: int
    inputs: int


Body = Callable[[Call], str | None]

#: operator -> the body that replaces it; None where the older operator is the same.
BODIES: dict[str, Body] = {}


def body(op_type: str) -> Callable[[Body], Body]:
    """Register the body of an operator that the older set lacks, or has in another form."""

    def add(function: Body) -> Body:
        BODIES[op_type] = function
        return function

    return add


def to_opset(proto: ModelProto, opset: int) -> ModelProto:
    """The model with an operator set version not above ``opset``.

    Raises:
        ModelError: An operator or an attribute has no form in that version.
    """
    while True:
        current = next(o for o in proto.opset_import if o.domain in ONNX_DOMAINS)
        if current.version <= opset:
            return proto
        functions = _missing_functions(proto, current.version, opset)
        if not functions:
            break
        proto.functions.extend(functions)
        proto.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
        proto = inliner.inline_local_functions(proto)
        kept = [o for o in proto.opset_import if o.domain != _DOMAIN]
        del proto.opset_import[:]
        proto.opset_import.extend(kept)
    for node in proto_nodes(proto.graph):
        if node.domain in ONNX_DOMAINS:
            _relabel(node, opset)
    current.version = opset
    return proto


def _missing_functions(proto: ModelProto, current: int, opset: int) -> list[FunctionProto]:
    """A function for each node that the older set does not have as it is; the node is renamed to call it."""
    types = cache(lambda: _types(proto))
    made: list[FunctionProto] = []
    for node in proto_nodes(proto.graph):
        if node.domain not in ONNX_DOMAINS or not onnx.defs.has(node.op_type, current):
            continue
        function = None
        if node.op_type in BODIES:
            dtype = types().get(node.input[0], TypeProto()).tensor_type.elem_type
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            text = BODIES[node.op_type](Call(attributes, dtype, len(node.input)))
            if text is not None:
                function = parser.parse_function(f'<opset_import: ["": {current}], domain: "{_DOMAIN}"> F {text}')
        elif not onnx.defs.has(node.op_type, opset) or not _takes(node, opset, types()):
            function = _standard_body(node, current, types())
        if function is not None:
            function.name, function.domain = f"{node.op_type}_{len(made)}", _DOMAIN
            for imported in function.opset_import:  # bodies are written in what has not changed since
                if imported.domain in ONNX_DOMAINS:
                    imported.version = current
            made.append(function)
            node.op_type, node.domain = function.name, _DOMAIN
    return made


def _takes(node: NodeProto, opset: int, types: Mapping[str, TypeProto]) -> bool:
    """Whether the operator takes the type of its first input in the older set."""
    if not node.input or not types.get(node.input[0], TypeProto()).HasField("tensor_type"):
        return True
    element = TensorProto.DataType.Name(types[node.input[0]].tensor_type.elem_type).lower()
    allowed = onnx.defs.get_schema(node.op_type, opset).inputs[0].types
    return not allowed or f"tensor({element})" in allowed


def _standard_body(node: NodeProto, opset: int, types: Mapping[str, TypeProto]) -> FunctionProto | None:
    """The body that the standard gives an operator. onnx's own inliner cannot find the one that depends on the types
    where an optional input before the last is absent."""
    schema: Any = onnx.defs.get_schema(node.op_type, opset)  # the type stubs lack the methods on functions
    add_defaults(node, schema)
    if schema.has_function:
        plain = FunctionProto()
        plain.ParseFromString(schema.get_function_with_opset_version(schema.since_version))
        return plain
    if not schema.has_context_dependent_function:
        return None
    inputs = [types.get(name, TypeProto()).SerializeToString() for name in node.input]
    body = schema.get_context_dependent_function_with_opset_version(
        schema.since_version, node.SerializeToString(), inputs
    )
    return _with_safe_softmax(FunctionProto.FromString(body))


def add_defaults(node: NodeProto, schema: Any) -> None:
    """Add the attributes that are not given and have a default to a node that is about to be replaced by its body.

    onnx-ir's AddDefaultAttributesPass would do so for every node, and all of them would stay in the file.
    """
    given = {attribute.name for attribute in node.attribute}
    node.attribute.extend(
        attribute.default_value
        for name, attribute in schema.attributes.items()
        if name not in given and attribute.default_value.name
    )


def _with_safe_softmax(function: FunctionProto) -> FunctionProto:
    """Attention masks the rows that have nothing to attend to behind the softmax, whose value there is NaN, as its
    gradient would be. They are masked before it as well."""
    nodes = list(function.node)
    made = {output: node for node in nodes for output in node.output}
    if "RowAllMasked" not in made:
        return function
    masking = [made["RowAllMasked"]]
    for node in masking:
        masking.extend(made[name] for name in node.input if name in made and made[name] not in masking)
    at = next(i for i, node in enumerate(nodes) if node.op_type == "Softmax")
    moved = [node for node in nodes[at:] if node in masking]
    scores = nodes[at].input[0]
    nodes[at].input[0] = "SafeScores"
    guard = [
        onnx.helper.make_node("CastLike", ["ScalarZero", scores], ["SafeZero"]),
        onnx.helper.make_node("Where", ["RowAllMasked", "SafeZero", scores], ["SafeScores"]),
    ]
    rest = [node for node in nodes[at:] if node not in moved]
    reordered = [*nodes[:at], *moved, *guard, *rest]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in reordered]
    del function.node[:]
    function.node.extend(copies)
    return function


def _types(proto: ModelProto) -> dict[str, TypeProto]:
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    known = {v.name: v.type for v in (*inferred.input, *inferred.output, *inferred.value_info)}
    for tensor in proto.graph.initializer:
        known.setdefault(tensor.name, onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims)))
    return known


def _relabel(node: NodeProto, opset: int) -> None:
    """Check that the node means the same in the older set; a newer attribute is dropped where it holds its default."""
    if not onnx.defs.has(node.op_type, opset):
        raise ModelError(f"node '{node.name}': operator {node.op_type} has no form in ONNX opset {opset}")
    known = onnx.defs.get_schema(node.op_type, opset).attributes
    newest = onnx.defs.get_schema(node.op_type).attributes
    for attribute in list(node.attribute):
        if attribute.name in known:
            continue
        default = newest[attribute.name].default_value if attribute.name in newest else AttributeProto()
        value = onnx.helper.get_attribute_value
        if not default.name or value(attribute) != value(default):
            raise ModelError(
                f"node '{node.name}': attribute {attribute.name} of {node.op_type} has no form in ONNX opset {opset}"
            )
        node.attribute.remove(attribute)


# -- operators that the older set lacks, or has in another form ------------------------------------------------------


@body("CumProd")
def _cum_prod(call: Call) -> str:
    """The product over the elements before (after) each: quadratic, but such axes are short."""
    order = "Greater" if call.attributes.get("reverse", 0) else "Less"
    compare = order if call.attributes.get("exclusive", 0) else f"{order}OrEqual"
    return f"""(x, axis) => (y) {{
        zero = Constant <value_int = 0> ()
        one = Constant <value_int = 1> ()
        vector = Constant <value_ints = [1]> ()
        axis_given = Cast <to = 7> (axis)
        axis_vector = Reshape (axis_given, vector)
        shape = Shape (x)
        rank = Shape (shape)
        negative = Less (axis_vector, zero)
        from_end = Add (axis_vector, rank)
        i_axis = Where (negative, from_end, axis_vector)
        j_axis = Add (i_axis, one)
        size_vector = Gather (shape, i_axis)
        size = Squeeze (size_vector)
        positions = Range (zero, size, one)
        to_column = Constant <value_ints = [-1, 1]> ()
        column = Reshape (positions, to_column)
        before = {compare} (positions, column)
        behind = Sub (rank, j_axis)
        ones = Expand (vector, behind)
        mask_shape = Concat <axis = 0> (size_vector, size_vector, ones)
        mask = Reshape (before, mask_shape)
        rows = Unsqueeze (x, i_axis)
        neutral = CastLike (one, x)
        factors = Where (mask, rows, neutral)
        y = ReduceProd <keepdims = 0> (factors, j_axis)
    }}"""


@body("TensorScatter")
def _tensor_scatter(call: Call) -> str:
    """Scattered along the sequence axis, each sample from its own index on."""
    axis = call.attributes.get("axis", -2)
    starts = "Reshape (write_indices, columns)" if call.inputs > 2 else "Identity (zero)"
    wrapped = "Mod (at, longest)" if call.attributes.get("mode", b"linear") == b"circular" else "Identity (at)"
    return f"""(past_cache, update, write_indices) => (present_cache) {{
        zero = Constant <value_int = 0> ()
        one = Constant <value_int = 1> ()
        axis = Constant <value_int = {axis}> ()
        past_shape = Shape (past_cache)
        update_shape = Shape (update)
        longest = Gather (past_shape, axis)
        length = Gather (update_shape, axis)
        steps = Range (zero, length, one)
        columns = Constant <value_ints = [-1, 1]> ()
        starts = {starts}
        at = Add (starts, steps)
        index = {wrapped}
        rank = Shape (update_shape)
        vector = Constant <value_ints = [1]> ()
        shape_before = Expand (vector, rank)
        zero_vector = Constant <value_ints = [0]> ()
        batch = Shape <start = 0, end = 1> (update)
        with_batch = ScatterElements (shape_before, zero_vector, batch)
        axis_given = Constant <value_ints = [{axis}]> ()
        length_vector = Unsqueeze (length, zero_vector)
        with_length = ScatterElements (with_batch, axis_given, length_vector)
        index_shaped = Reshape (index, with_length)
        index_full = Expand (index_shaped, update_shape)
        present_cache = ScatterElements <axis = {axis}> (past_cache, index_full, update)
    }}"""


@body("SpaceToDepth")
def _space_to_depth(call: Call) -> str | None:
    """Mode CRD: depth-column-row order, (N, C, H b, W b) -> (N, C b b, H, W)."""
    if call.attributes.get("mode", b"DCR") == b"DCR":
        return None
    block = call.attributes["blocksize"]
    return f"""(input) => (output) {{
        block = Constant <value_ints = [{block}]> ()
        area = Constant <value_ints = [{block * block}]> ()
        batch_and_channels = Shape <start = 0, end = 2> (input)
        batch = Shape <start = 0, end = 1> (input)
        channels = Shape <start = 1, end = 2> (input)
        height = Shape <start = 2, end = 3> (input)
        width = Shape <start = 3, end = 4> (input)
        rows = Div (height, block)
        columns = Div (width, block)
        split = Concat <axis = 0> (batch_and_channels, rows, block, columns, block)
        blocks = Reshape (input, split)
        sorted = Transpose <perm = [0, 1, 3, 5, 2, 4]> (blocks)
        depth = Mul (channels, area)
        joined = Concat <axis = 0> (batch, depth, rows, columns)
        output = Reshape (sorted, joined)
    }}"""


@body("Mod")
def _mod(call: Call) -> str | None:
    """The remainder with the sign of the divisor; older sets have it for integers alone."""
    if call.attributes.get("fmod", 0) or call.dtype not in _FLOATS:
        return None
    return """(A, B) => (C) {
        zero_int = Constant <value_int = 0> ()
        zero = CastLike (zero_int, A)
        remainder = Mod <fmod = 1> (A, B)
        sign = Sign (remainder)
        divisor_sign = Sign (B)
        signs = Mul (sign, divisor_sign)
        differ = Less (signs, zero)
        shifted = Add (remainder, B)
        C = Where (differ, shifted, remainder)
    }"""


@body("Range")
def _range(call: Call) -> str | None:
    """Computed in the type that ``stash_type`` names, float32 by default: older sets have no half types."""
    if call.dtype not in _HALVES:
        return None
    stash = call.attributes.get("stash_type", 1)
    return f"""(start, limit, delta) => (output) {{
        first = Cast <to = {stash}> (start)
        last = Cast <to = {stash}> (limit)
        step = Cast <to = {stash}> (delta)
        wide = Range (first, last, step)
        output = CastLike (wide, start)
    }}"""
