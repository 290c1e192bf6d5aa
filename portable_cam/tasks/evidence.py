# SPDX-License-Identifier: Apache-2.0
"""What speaks against the numbers of an output being scores of classes.

A linear layer's outputs may be logits, coordinates or an embedding: no softmax behind them tells. What stands last, and
what the output is called, may speak against classes; nothing is concluded from sizes.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir

from portable_cam.export.graph.values import constant_of, known_dims
from portable_cam.export.targets.scores import PASS_THROUGH, Scores

_ACTIVATIONS = frozenset(
    "Celu Clip Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Softplus Softsign Swish Tanh".split()
)
_NORMALIZATIONS = frozenset(
    "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization".split()
)
_PARTS = frozenset({"Gather", "Resize", "Slice", "Split", "Upsample"})  # take or stretch what they get
#: Names of outputs that are measures or features. Whole words, so that no class of things is meant.
_NAMES = re.compile(
    r"(?<![a-z])(landmarks?|keypoints?|kpts?|heat_?maps?|joints?|coords?|coordinates|embeddings?|features?|descriptors?|bbox|boxes|pose|"
    r"depth|disparity|flow|age|angles?|gaze|norm)(?![a-z])"
)
_IMAGE = "is the image itself, changed"


def against_classes(scores: Scores) -> str | None:
    """Why an output does not hold scores of classes; None if nothing speaks against it.

    A softmax or sigmoid behind them says that they do.
    """
    if scores.cut is not None:
        return None
    named = _NAMES.search(scores.output.lower())
    if named is not None:
        return f"'{scores.output}' is called {named.group()}"
    last = _last(scores.value)
    return None if last is None else f"'{scores.output}' {last}"


def _last(value: ir.Value) -> str | None:
    """What stands last, if it is nothing that class scores end in."""
    node = value.producer()
    if node is None:
        return _IMAGE if value.is_graph_input() and len(known_dims(value) or []) == 4 else None
    inputs = [v for v in node.inputs if v is not None]
    kind = node.op_type
    varying = [v for v in inputs if constant_of(v) is None]
    if kind in PASS_THROUGH | _PARTS and inputs:
        return _last(inputs[0])
    if kind in _ACTIVATIONS:
        return f"ends in {kind}, as features do"
    if kind in _NORMALIZATIONS:
        return f"ends in {kind}, as an embedding does"
    if kind in {"Mul", "Div"} and len(varying) == 1:
        factor = next((constant_of(v) for v in inputs if v is not varying[0]), None)
        one = factor is None or factor.size == 1 or bool(np.all(factor == factor.flat[0]))
        return _last(varying[0]) if one else "is scaled for each number apart, as an embedding is"
    if kind == "Div" and len(varying) == 2 and _is_length(inputs[1]):
        return "is divided by its length, as an embedding is"
    if kind in {"Add", "Div", "Mul", "Sub", "Sum"}:
        found = [_last(v) for v in varying]
        if _IMAGE in found:
            return _IMAGE
        return found[0] if kind in {"Add", "Sub", "Sum"} and found and all(found) else None
    return None


def _is_length(value: ir.Value) -> bool:
    """The norm of a vector, a small number kept from dividing by zero looked through."""
    node = value.producer()
    while node is not None and node.op_type in PASS_THROUGH | {"Clip", "Max", "Add", "Expand"}:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is not None and node.op_type == "Sqrt" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
        while node is not None and node.op_type in {"Add", "Max", "Clip"} and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        return node is not None and node.op_type in {"ReduceSum", "ReduceSumSquare"}
    return node is not None and node.op_type == "ReduceL2"
