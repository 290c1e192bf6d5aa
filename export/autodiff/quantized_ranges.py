"""What a quantisation range does to a value beyond rounding it: a range that begins at 0 is a ReLU.

QuantizeLinear clips to [(qmin - zero point) * scale, (qmax - zero point) * scale]. Tools that quantise a model drop an
activation whose bounds lie at or beyond those of the range behind it: ReLU and Clip vanish. Here they are found again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of, optional_input

_INTEGERS = {
    ir.DataType.UINT8: (0, 255), ir.DataType.INT8: (-128, 127), ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT16: (-32768, 32767), ir.DataType.UINT4: (0, 15), ir.DataType.INT4: (-8, 7),
}  # fmt: skip

#: Operators whose result is bounded whatever their input is, and the bounds.
_BOUNDED = {"Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "Tanh": (-1.0, 1.0)}
#: Operators whose result lies within the bounds of their input.
_WITHIN = frozenset(
    """
    AveragePool Concat Expand Flatten Gather GlobalAveragePool GlobalMaxPool Identity Max MaxPool Min ReduceMax
    ReduceMean ReduceMin Reshape Slice Split Squeeze Transpose Unsqueeze
    """.split()
)


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """The constant bounds of a Clip node, infinite where absent; None if one is computed at run time."""
    bounds = []
    for index, absent in ((1, -math.inf), (2, math.inf)):
        value = optional_input(node, index)
        array = constant_of(value)
        if value is not None and (array is None or array.size != 1):
            return None
        bounds.append(absent if array is None else float(array.reshape(-1)[0]))
    return bounds[0], bounds[1]


@dataclass(frozen=True)
class Range:
    """The values that a QuantizeLinear node with one constant scale can represent, computed as ONNX Runtime does, in
    the type of the scale. ``step`` is the scale."""

    low: float
    high: float
    step: float

    def rounded(self, value: float) -> float:
        """The representable value that ``value`` is rounded and clipped to."""
        kind = np.float32
        q = np.rint(kind(np.clip(value, self.low, self.high)) / kind(self.step))
        return float(kind(q) * kind(self.step))


def quantization_range(node: ir.Node) -> Range | None:
    """The range of a QuantizeLinear node; None if its scale is not one constant, or its type is not an integer."""
    scale = constant_of(node.inputs[1])
    zero = np.zeros(()) if optional_input(node, 2) is None else constant_of(node.inputs[2])
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    dtype = node.outputs[0].dtype
    ends = None if dtype is None else _INTEGERS.get(dtype)
    if ends is None:
        return None
    step, offset = np.float32(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
    low, high = (float(np.float32(end - offset) * step) for end in ends)
    return Range(low, high, float(step))


def bounds_of(value: ir.Value | None, depth: int = 20) -> tuple[float, float]:
    """Bounds that a tensor keeps by the operators that make it, infinite where nothing is known."""
    open_ends = (-math.inf, math.inf)
    node = None if value is None else value.producer()
    if node is None or node.domain not in ONNX_DOMAINS or depth == 0:
        return open_ends
    if node.op_type in _BOUNDED:
        return _BOUNDED[node.op_type]
    if node.op_type in {"Clip", "Relu"}:
        own = (0.0, math.inf) if node.op_type == "Relu" else clip_bounds(node) or open_ends
        before = bounds_of(node.inputs[0], depth - 1)
        return max(own[0], before[0]), min(own[1], before[1])
    if node.op_type == "DequantizeLinear":
        quantizer = node.inputs[0].producer() if node.inputs[0] is not None else None
        while quantizer is not None and quantizer.op_type in _WITHIN and quantizer.inputs[0] is not None:
            quantizer = quantizer.inputs[0].producer()
        if quantizer is not None and quantizer.op_type == "QuantizeLinear":
            known, before = quantization_range(quantizer), bounds_of(quantizer.inputs[0], depth - 1)
            if known is not None:
                return max(known.low, before[0] - known.step / 2), min(known.high, before[1] + known.step / 2)
        return open_ends
    if node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "cubic":
        return bounds_of(node.inputs[0], depth - 1)
    if node.op_type == "Pad":
        low, high = bounds_of(node.inputs[0], depth - 1)
        given = optional_input(node, 2)
        fill = np.zeros(1) if given is None else constant_of(given)
        if fill is None:
            return open_ends
        return min(low, float(fill.reshape(-1)[0])), max(high, float(fill.reshape(-1)[0]))
    if node.op_type in _WITHIN:
        data = node.inputs if node.op_type in {"Concat", "Max", "Min"} else node.inputs[:1]
        parts = [bounds_of(v, depth - 1) for v in data]
        return min(p[0] for p in parts), max(p[1] for p in parts)
    return open_ends


@dataclass(frozen=True)
class ClippedEnds:
    """The ends of its range that a QuantizeLinear node clips at."""

    low: float | None
    high: float | None

    @property
    def is_relu(self) -> bool:
        """Whether it clips at 0 from below."""
        return self.low == 0


def clipped_ends(node: ir.Node) -> ClippedEnds:
    """What the node clips: an end of the range that its input can go beyond."""
    known = quantization_range(node)
    if known is None:
        return ClippedEnds(None, None)
    low, high = bounds_of(node.inputs[0])
    half = known.step / 2
    clips_low, clips_high = low < known.low - half, high > known.high + half
    return ClippedEnds(known.low if clips_low else None, known.high if clips_high else None)


def gradient_ends(node: ir.Node, saturation: str, activation: str | None) -> tuple[float | None, float | None]:
    """The ends of its range at which a QuantizeLinear node stops the gradient: always at 0 if that is a ReLU and at 6
    if it is a ReLU6, at any other end by ``saturation``.

    Args:
        node: The node.
        saturation: ``pass`` or ``mask``.
        activation: What its range replaces, by :func:`dropped_activations`.
    """
    ends = clipped_ends(node)
    if saturation == "mask":
        return ends.low, ends.high
    return (ends.low if ends.is_relu else None), (ends.high if activation == "Clip" else None)


def dropped_activations(nodes: Iterable[ir.Node]) -> dict[ir.Node, str]:
    """The QuantizeLinear nodes whose range replaces an activation that a quantiser dropped, and which: ``Relu``, or
    ``Clip`` for a ReLU6.

    A range that begins at 0 is a ReLU. One that also ends at 6 is a ReLU6; where the calibration did not reach 6, the
    two look the same, so that a graph with ranges that end at 6 and none beyond is taken to have ReLU6 only.
    """
    found = {
        node: known
        for node in nodes
        if node.op_type == "QuantizeLinear"
        and node.domain in ONNX_DOMAINS
        and clipped_ends(node).is_relu
        and (known := quantization_range(node)) is not None
    }
    six = any(abs(known.high - 6) <= known.step for known in found.values())
    beyond = any(known.high > 6 + known.step for known in found.values())
    return dict.fromkeys(found, "Clip" if six and not beyond else "Relu")
