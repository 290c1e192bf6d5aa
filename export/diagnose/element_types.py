"""In which element types a model as it was exported computes, and how it is quantised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from portable_cam.export.graph.operators import FLOATS

_DYNAMIC = frozenset({"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"})
#: Operators that hold weights as integers, and how the names of others begin that do.
_STORES = frozenset({"ConvInteger", "DequantizeLinear"})
_STORE = ("DynamicQuantize", "MatMul", "QGemm", "QLinear")
#: A type that holds less than this share of the weights, as the constants of a Pad, is not named.
_SHARE = 0.01


@dataclass(frozen=True)
class ElementTypes:
    """``floats``: the floating-point types, that of most weights first. ``quantized``: ``"QDQ"`` (QuantizeLinear and
    DequantizeLinear around float operators), ``"QOperator"`` (operators on integers, as QLinearConv), ``"dynamic"``
    (scales chosen at run time), ``"weights"`` (only weights are stored as integers) or None. ``integers``: the types of
    quantised weights."""

    floats: list[str]
    quantized: str | None
    integers: list[str]

    def describe(self) -> str:
        floats = " and ".join(self.floats) or "unknown"
        if self.quantized is None:
            return floats
        how = {"dynamic": "quantised dynamically", "weights": "weights quantised"}.get(
            self.quantized, f"quantised as {self.quantized}"
        )
        return f"{' and '.join(self.integers) or 'integers'}, {how}; otherwise {floats}"


def element_types(model: ir.Model) -> ElementTypes:
    """Read the types off the operators, weights and inputs of a model as it was exported."""
    nodes = list(_all_nodes(model))
    floats: Counter[ir.DataType] = Counter()
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in FLOATS:
                floats[value.const_value.dtype] += value.const_value.size
    for node in nodes:
        tensor = ir.convenience.get_const_tensor(node.outputs[0]) if node.op_type == "Constant" else None
        if tensor is not None and tensor.dtype in FLOATS:
            floats[tensor.dtype] += tensor.size
    if not floats:
        floats.update(v.dtype for v in (*model.graph.inputs, *model.graph.outputs) if v.dtype in FLOATS)
    total = sum(floats.values())
    named = [kind.numpy().name for kind, count in floats.most_common() if count >= _SHARE * total]
    quantized = _quantized(nodes)
    return ElementTypes(named, quantized, [] if quantized is None else _integers(nodes))


def _quantized(nodes: list[ir.Node]) -> str | None:
    operators = {node.op_type for node in nodes}
    if any(op.startswith("QLinear") or op in {"QGemm", "QAttention"} for op in operators):
        return "QOperator"
    if operators & _DYNAMIC or any(op.startswith(("DynamicQuantize", "MatMulIntegerTo")) for op in operators):
        return "dynamic"
    if "QuantizeLinear" in operators:
        return "QDQ"
    return "weights" if "DequantizeLinear" in operators or "MatMulNBits" in operators else None


def _integers(nodes: list[ir.Node]) -> list[str]:
    """The types of the integers that are weights, by how many there are; biases in int32 are none."""
    found: Counter[str] = Counter()
    for node in nodes:
        if node.op_type not in _STORES and not node.op_type.startswith(_STORE):
            continue
        for value in node.inputs:
            tensor = None if value is None else ir.convenience.get_const_tensor(value)
            if tensor is not None and tensor.dtype not in FLOATS and tensor.dtype != ir.DataType.INT32:
                found[tensor.dtype.name.lower()] += tensor.size
    return [kind for kind, count in found.most_common() if count >= _SHARE * sum(found.values())]


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of the graph, of its subgraphs and of the model's functions."""
    yield from ir.traversal.RecursiveGraphIterator(model.graph)
    for function in model.functions.values():
        yield from ir.traversal.RecursiveGraphIterator(function)
