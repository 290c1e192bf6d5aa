"""Refuses model files that would harm the process that reads them.

The libraries that read, convert and run a model recurse over functions, fold every constant and run loops to their end.
A few hundred bytes can make them overflow the stack, fill the memory or never return; such a model is refused here,
before they get it, with an error that names the cause.
"""

from __future__ import annotations

import graphlib
import math
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from portable_cam.errors import ModelError
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.protos import proto_nodes
from portable_cam.export.graph.subgraph import never_ends
from portable_cam.export.graph.values import constant_of, known_dims, subgraphs

_MOST_NODES = 100_000  # of a model, its functions inlined: twenty times a large vision transformer, minutes to build
_MOST_ROUNDS = 1 << 20  # of a loop whose number of rounds is written in the model
_MOST_ELEMENTS = 1 << 31  # of one tensor: 8 GiB in float32
_LARGEST_FOLDED = 1 << 20  # elements of a tensor that is folded

#: Operators whose output size is a value among their inputs. Folded only where the size is known.
_SIZED_BY_VALUE = frozenset(
    """
    AffineGrid BlackmanWindow CenterCropPad Col2Im ConvTranspose DFT EyeLike GridSample HammingWindow HannWindow If Loop
    MaxUnpool MelWeightMatrix OneHot Pad RandomNormal RandomNormalLike RandomUniform RandomUniformLike Resize RoiAlign
    STFT Scan SequenceMap SplitToSequence Upsample
    """.split()
)


def check_functions(model: ir.Model) -> None:
    """No function calls itself, and with all of them inlined the graph has not too many nodes.

    Raises:
        ModelError: Either does not hold.
    """
    calls = {key: _calls(function, model) for key, function in model.functions.items()}
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        names = " -> ".join(f"{key[0]}::{key[1]}" for key in error.args[1])
        raise ModelError(f"the model's functions call each other without end: {names}") from None
    sizes: dict[ir.OperatorIdentifier, int] = {}
    for key in order:
        nodes = sum(1 for _ in _all_nodes(model.functions[key]))
        sizes[key] = nodes + sum(sizes[called] for called in calls[key])
    total = sum(sizes.get(node.op_identifier(), 1) for node in _all_nodes(model.graph))
    if total > _MOST_NODES:
        raise ModelError(f"the model has {total} nodes, its functions inlined; at most {_MOST_NODES} can be explained")


def check_nodes(proto: onnx.ModelProto) -> None:
    """The operators have the inputs, outputs and attributes that the ONNX standard gives them, every tensor has one
    producer, before its readers, and no constant is malformed.

    Raises:
        ModelError: The first violation, with the message of the ONNX checker.
    """
    open_types = [(value, onnx.TypeProto()) for value in (*proto.graph.input, *proto.graph.output)]
    for value, kept in open_types:  # the checker wants types and shapes, which real models leave out
        kept.CopyFrom(value.type)
        if value.type.WhichOneof("value") is None:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(proto)
    except Exception as error:  # a ValidationError, or what the C++ library raises for bytes that are no text
        raise ModelError(f"the model is not valid ONNX: {' '.join(str(error).split())[:500]}") from None
    finally:
        for value, kept in open_types:
            value.type.CopyFrom(kept)
    for node in proto_nodes(proto.graph):
        if node.op_type == "Constant" and len(node.attribute) != 1:
            raise ModelError(f"Constant node '{node.name}' has {len(node.attribute)} attributes; it must have one")
        for attribute in node.attribute if node.domain in ONNX_DOMAINS else ():
            try:
                b"\0".join([attribute.s, *attribute.strings]).decode()
            except UnicodeDecodeError:
                raise ModelError(
                    f"attribute '{attribute.name}' of {node.op_type} node '{node.name}' is no text: the file is damaged"
                ) from None


def check_loops(model: ir.Model) -> None:
    """Bodies and branches have as many outputs as their node, and every loop ends.

    Raises:
        ModelError: They have not, or a Loop never ends, or runs for too many rounds to wait for.
    """
    for node in _all_nodes(model.graph):
        own = 1 if node.op_type == "Loop" else 0  # the condition to continue
        for graph in subgraphs(node) if node.op_type in {"If", "Loop", "Scan"} else ():
            if len(graph.outputs) != len(node.outputs) + own:
                raise ModelError(
                    f"a subgraph of {node.op_type} node '{node.name}' has {len(graph.outputs)} outputs; it must have "
                    f"{len(node.outputs) + own}"
                )
        if node.op_type != "Loop" or "body" not in node.attributes or len(node.inputs) < 2:
            continue
        rounds, body = constant_of(node.inputs[0]), node.attributes["body"].as_graph()
        if rounds is not None and rounds.size == 1 and int(rounds.reshape(-1)[0]) <= _MOST_ROUNDS:
            continue
        known = rounds is not None or node.inputs[0] is None
        if known and body.outputs and never_ends(body) and constant_of(node.inputs[1]) in (None, True):
            often = "without end" if rounds is None else f"{int(rounds.reshape(-1)[0])} times"
            raise ModelError(f"Loop node '{node.name}' runs its body {often}: no explanation would ever be ready")


def check_sizes(model: ir.Model) -> None:
    """No tensor is too large for the memory, as far as shapes are known, and no scale has a shape that makes ONNX
    Runtime's optimiser end the process.

    Raises:
        ModelError: The tensor, and the node that makes or reads it.
    """
    for node in model.graph:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and node.domain in ONNX_DOMAINS:
            _check_scale(node)
        for value in node.outputs:
            dims = known_dims(value) or []
            count = math.prod(d for d in dims if d is not None)
            if count > _MOST_ELEMENTS:
                raise ModelError(
                    f"tensor '{value.name}' {value.shape}, made by {node.op_type} node '{node.name}', would have "
                    f"{count} elements; at most {_MOST_ELEMENTS} can be explained"
                )


def _check_scale(node: ir.Node) -> None:
    x, *scales = (None if value is None else known_dims(value) for value in node.inputs)
    for dims in scales:
        if dims is not None and len(dims) > 1 and x is not None and len(dims) != len(x):
            raise ModelError(
                f"{node.op_type} node '{node.name}' has a scale or zero point of {len(dims)} dimensions: it is one "
                f"number, one for each slice, or one for each block of its input's {len(x)} dimensions"
            )


def may_fold(node: ir.Node) -> bool | None:
    """Whether a constant node is folded: fill tensors are (exporters compute pads with them), up to a size. None leaves
    it to the library's own bounds on the sizes of the inputs."""
    if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
        return False  # folded weights would be four times as large, and no kernel for integers could be chosen
    if node.op_type not in {"ConstantOfShape", "Expand", "Tile", "Range", *_SIZED_BY_VALUE}:
        return None
    sizes = [constant_of(v) for v in node.inputs]
    if node.op_type == "ConstantOfShape" and sizes and sizes[0] is not None:
        return math.prod(int(d) for d in sizes[0].reshape(-1)) <= _LARGEST_FOLDED or False
    if node.op_type in {"Expand", "Tile"} and len(sizes) == 2 and sizes[0] is not None and sizes[1] is not None:
        count = math.prod(int(d) for d in sizes[1].reshape(-1))
        return None if count * max(1, sizes[0].size) <= _LARGEST_FOLDED else False
    if node.op_type == "Range" and all(s is not None for s in sizes) and len(sizes) == 3:
        if any(s is None or s.size != 1 for s in sizes):
            return False
        start, limit, delta = (float(s.reshape(-1)[0]) for s in sizes if s is not None)
        return None if delta and abs((limit - start) / delta) <= _LARGEST_FOLDED else False
    if node.op_type in _SIZED_BY_VALUE:
        count = math.prod(d or _LARGEST_FOLDED for d in known_dims(node.outputs[0]) or [None])
        return None if node.op_type == "If" or count < _LARGEST_FOLDED else False
    return None


def _calls(function: ir.Function, model: ir.Model) -> list[ir.OperatorIdentifier]:
    called = [node.op_identifier() for node in _all_nodes(function)]
    return [key for key in called if key in model.functions]


def _all_nodes(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    return iter(ir.traversal.RecursiveGraphIterator(graph))
