"""Keeps ONNX Runtime from breaking quantised models with an optimisation of its own.

Its QDQPropagationTransformer moves DequantizeLinear and QuantizeLinear through operators that only move elements, and
is wrong twice (1.32). Both times a copy where it would go wrong stops it: Max of one tensor, which no optimisation
removes as Identity would be.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import graph_of, producer_of

_MOVED_BEFORE = frozenset({"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
# What an earlier optimisation may find to do nothing and remove, so that its neighbours meet.
_REMOVED = frozenset({"Add", "Cast", "Div", "Dropout", "Expand", "Identity", "Mul", "Pad", "Sub"})


def apply_ort_workarounds(graph: ir.Graph) -> None:
    """Put the copies in, in the graph and in the bodies of its nodes."""
    for each in [graph, *graph.subgraphs()]:
        _shield_reads_of_bodies(each)
    _shield_int8(graph)


def _shield_reads_of_bodies(graph: ir.Graph) -> None:
    """Let a body (of the Scan over targets, of the model's own If or Loop) read through a copy what DequantizeLinear
    would be moved to.

    What a body reads from outside is an edge, too, whose place is counted on behind the node's inputs. To write
    DequantizeLinear -> Reshape -> QuantizeLinear -> DequantizeLinear for DequantizeLinear -> Reshape, ONNX Runtime
    sets the node's input in that place, which it has not: the process is aborted, or memory overwritten.
    """
    for node in list(graph):
        for out in node.outputs:
            readers = [use for use in out.uses() if use.node.graph is not graph]
            if readers and _is_moved_to(out):
                _copy(out, readers)


def _is_moved_to(value: ir.Value) -> bool:
    """Whether the value comes from DequantizeLinear through at least one operator that it is moved through, with none
    between that would stop it."""
    behind = [(value, False)]
    seen = set(behind)
    while behind:
        at, moved = behind.pop()
        node = at.producer()
        if node is None or node.domain not in ONNX_DOMAINS:
            continue
        if node.op_type == "DequantizeLinear" and moved:
            return True
        further: list[tuple[ir.Value | None, bool]] = []
        if node.op_type in _MOVED_BEFORE and at is node.outputs[0]:  # not the indices of MaxPool
            further = [(given, True) for given in node.inputs[:1]]
        elif node.op_type in _REMOVED:
            further = [(given, moved) for given in node.inputs]
        for given, so in further:
            if given is not None and (given, so) not in seen:
                seen.add((given, so))
                behind.append((given, so))
    return False


def _shield_int8(graph: ir.Graph) -> None:
    """Put a copy between DequantizeLinear of int8 and an operator that it would be moved through.

    Where nothing quantises the result again, ONNX Runtime (x86, opset 21) writes Reshape -> QuantizeLinear ->
    DequantizeLinear for DequantizeLinear -> Reshape, states the type int8 as an attribute, then turns the zero points
    to uint8 but not the attribute, and refuses its own graph.
    """
    for node in list(graph):
        if node.op_type != "DequantizeLinear" or node.domain not in ONNX_DOMAINS:
            continue
        integers, out = node.inputs[0], node.outputs[0]
        if integers is None or integers.dtype != ir.DataType.INT8:
            continue
        if ir.convenience.get_const_tensor(integers) is not None:
            continue
        readers = [use for use in out.uses() if use.node.graph is graph and use.idx == 0 and _is_moved(use.node)]
        if readers:
            _copy(out, readers)


def _copy(value: ir.Value, readers: Sequence[tuple[ir.Node, int]]) -> None:
    """Let these read a copy of a node's output."""
    node = producer_of(value)
    copy = ir.node("Max", [value], name=f"{value.name}/copy")
    copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = f"{value.name}/copy", value.type, value.shape
    graph_of(node).insert_after(node, copy)
    for reader, place in readers:
        reader.replace_input_with(place, copy.outputs[0])


def _is_moved(node: ir.Node) -> bool:
    if node.op_type not in _MOVED_BEFORE or node.domain not in ONNX_DOMAINS:
        return False
    uses = list(node.outputs[0].uses())
    return not uses or any(use.node.op_type != "QuantizeLinear" for use in uses) or len(node.outputs) > 1
