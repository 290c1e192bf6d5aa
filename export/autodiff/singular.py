# SPDX-License-Identifier: Apache-2.0
"""Operators whose slope can be infinite where their value is finite, as that of a square root at 0.

A gate behind such a slope has to choose: 0 times infinity is NaN, where torch, which selects, gives 0. Masks that are
multiplied are faster (:mod:`portable_cam.export.autodiff.rules.relu`), so that the walk tells gates which it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from portable_cam.export.autodiff.quantized_ranges import clip_bounds
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of, optional_input, subgraphs

#: Infinite where their first input is 0.
_AT_ZERO = frozenset({"Log", "Pow", "Reciprocal", "ReduceLogSum", "Sqrt"})
#: Infinite elsewhere.
_ELSEWHERE = frozenset({"Acos", "Acosh", "Asin", "Atanh"})
#: Never 0, whatever they get.
_POSITIVE = frozenset({"Exp", "Sigmoid", "Softmax", "Softplus"})
#: Not 0 where their first input is positive.
_KEEPS_POSITIVE = frozenset(
    """
    AveragePool Cast Expand Flatten GlobalAveragePool GlobalMaxPool Identity MaxPool Pow Reciprocal ReduceL1 ReduceL2
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Slice Sqrt Squeeze Transpose Unsqueeze
    """.split()
)
_DEEPEST = 16  # nodes that are looked through


def is_singular(node: ir.Node) -> bool:
    """Whether a node's slope may be infinite; that of a node with subgraphs, where one in them is."""
    if node.domain not in ONNX_DOMAINS:
        return False
    op = node.op_type
    if op == "Pow":
        exponent = constant_of(optional_input(node, 1))
        if exponent is not None and bool(np.all((exponent >= 1) | (exponent == 0))):
            return False
    if op in _AT_ZERO:
        return not _is_positive(node.inputs[0])
    if op == "Div":
        return not _is_positive(optional_input(node, 1))
    return op in _ELSEWHERE or any(is_singular(inner) for graph in subgraphs(node) for inner in graph)


def _is_positive(value: ir.Value | None, depth: int = 0) -> bool:
    """Whether a tensor keeps away from 0 by the operators that make it: bounded below, or with a constant added, as the
    epsilon of a normalisation."""
    content = constant_of(value)
    if content is not None:
        return bool(np.all(content != 0))
    node = None if value is None else value.producer()
    if node is None or node.domain not in ONNX_DOMAINS or depth > _DEEPEST:
        return False
    op = node.op_type
    if op in _POSITIVE:
        return True
    if op == "Clip":
        bounds = clip_bounds(node)
        return bounds is not None and bounds[0] > 0
    if op in {"Add", "Max"}:
        return any(_is_positive(given, depth + 1) for given in node.inputs)
    if op in {"Concat", "Div", "Mul"}:
        return all(_is_positive(given, depth + 1) for given in node.inputs)
    return op in _KEEPS_POSITIVE and _is_positive(node.inputs[0], depth + 1)
