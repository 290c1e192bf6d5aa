"""Tensors of an attention that have positions of the image, but no features: how much a query reads of each place, and
queries, keys and values that stand side by side in one axis."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.autodiff.dequantized import is_constant
from portable_cam.export.layers.axes import holds
from portable_cam.export.layers.axis_rules import AxesOf

_PRODUCTS = frozenset({"MatMul", "Einsum", "Gemm"})
_MOVES = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_TAKES = frozenset({"Gather", "Slice", "Split"})
_SCALES = frozenset({"Add", "Div", "Dropout", "Mul", "Sub", "Where"})
_DEPTH = 32


def without_features(derived: AxesOf) -> dict[ir.Value, str]:
    """The tensors, and what stands there instead."""
    found: dict[ir.Value, str] = {}
    for value in derived:
        node = value.producer()
        if node is None or node.op_type != "MatMul" or not _sums_over_places(node, derived):
            continue
        shares, values = node.inputs
        assert shares is not None
        assert values is not None
        chain, product = _shares(shares, derived)
        if product is None:
            continue
        found |= dict.fromkeys(chain, "how much each query reads of each place")
        operands = [_way_back(operand) for operand in (*product.inputs, values) if operand is not None]
        for i, one in enumerate(operands):
            for other in operands[i + 1 :]:
                together = _side_by_side(one, other)
                if together is not None:
                    found |= dict.fromkeys(_projection(together), "queries, keys and values side by side")
    return found


def _sums_over_places(node: ir.Node, derived: AxesOf) -> bool:
    """A product of two tensors that vary with the image, over positions."""
    sides = []
    for value, axis in zip(node.inputs, (-1, -2), strict=True):
        known = None if value is None else derived.get(value)
        if known is None or known.axes is None or len(known.axes) < 2:
            return False
        sides.append(holds(known.axes[axis], "position", "unknown"))
    return all(sides)


def _shares(value: ir.Value, derived: AxesOf) -> tuple[list[ir.Value], ir.Node | None]:
    """From the weights of an attention back to the product of queries and keys; None where no Softmax is between."""
    chain, softmax = [value], False
    for _ in range(_DEPTH):
        node = chain[-1].producer()
        if node is None:
            break
        if node.op_type in _PRODUCTS:
            return (chain, node) if softmax else ([], None)
        softmax = softmax or node.op_type == "Softmax"
        if node.op_type not in _MOVES | _SCALES | {"Softmax"}:
            break
        before = [v for v in node.inputs if v is not None and v in derived]
        if not before:
            break
        chain.append(before[0])
    return [], None


def _way_back(value: ir.Value) -> list[ir.Value]:
    """From an operand back through what only moves and takes entries."""
    way = [value]
    for _ in range(_DEPTH):
        node = way[-1].producer()
        scales = node is not None and node.op_type in {"Mul", "Div"} and is_constant(node.inputs[1])
        if node is None or not (node.op_type in _MOVES | _TAKES or scales) or node.inputs[0] is None:
            break
        way.append(node.inputs[0])
    return way


def _side_by_side(one: list[ir.Value], other: list[ir.Value]) -> ir.Value | None:
    """The tensor that two operands are different parts of."""
    for i, value in enumerate(one):
        if value in other:
            k = other.index(value)
            if not i or not k:
                return None
            taken = [one[i - 1], other[k - 1]]
            apart = taken[0] is not taken[1] and all(_op(part) in _TAKES for part in taken)
            return value if apart else None
    return None


def _op(value: ir.Value) -> str:
    node = value.producer()
    return "" if node is None else node.op_type


def _projection(value: ir.Value) -> list[ir.Value]:
    """A tensor and those before it, back to the linear layer that makes it."""
    found = [value]
    for _ in range(_DEPTH):
        node = found[-1].producer()
        if node is None or node.op_type in {"MatMul", "Gemm", "Conv"}:
            break
        rest = [v for v in node.inputs if v is not None and not is_constant(v)]
        if node.op_type not in _MOVES | {"Add"} or not rest:
            break
        found.append(rest[0])
    return found
