"""The dequantised values that the gradient rules read in a quantised graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from portable_cam.export.autodiff.dequantized import dequantized, quantizer_of
from portable_cam.export.autodiff.quantized_ranges import dropped_activations, quantization_range
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import constant_of, dtype_of, input_of, optional_input

#: Integers that ONNX Runtime casts; the 4-bit and 8-bit float types are left to DequantizeLinear.
_PLAIN = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.INT32})


class Residuals:
    """The tensor that the rules read for each tensor of the forward graph; in a graph of floats the tensor itself.

    ONNX Runtime computes DequantizeLinear -> Conv -> QuantizeLinear in integers, unless another node reads a tensor
    between them: the rules read the tensor behind QuantizeLinear instead, as all later layers do. And it computes
    DequantizeLinear of a constant in every run; Cast, Sub and Mul of constants it computes when it loads the file,
    which stores the weights in integers once.
    """

    def __init__(self, builder: Builder, nodes: Sequence[ir.Node], affected: Collection[ir.Value]) -> None:
        self._b = builder
        self._affected = affected
        self._quantizers = {
            value: quantizer
            for node in nodes
            for value in node.outputs
            if value.dtype in FLOATS and (quantizer := quantizer_of(value)) is not None
        }
        self._activations = dropped_activations(nodes)
        self._made: dict[ir.Value, ir.Value] = {}

    def __call__(self, value: ir.Value) -> ir.Value:
        if value not in self._made:
            self._made[value] = self._find(value)
        return self._made[value]

    def _find(self, value: ir.Value) -> ir.Value:
        if value.dtype is not None and value.dtype not in FLOATS:
            if value not in self._affected or value.dtype not in _PLAIN:
                return value
            out = self._b.op("Cast", value, to=int(ir.DataType.FLOAT))
            out.shape = value.shape
            return out
        node = value.producer()
        if node is not None and node.op_type == "DequantizeLinear":
            return self._constant(node) or value
        quantizer = self._quantizers.get(value)
        if quantizer is None:
            return value
        return dequantized(quantizer.outputs[0]) or value

    def activation(self, node: ir.Node) -> str | None:
        """The activation that the range of a QuantizeLinear node replaces, ``Relu`` or ``Clip``, or None."""
        return self._activations.get(node)

    def rounded(self, value: ir.Value, bound: float) -> float:
        """A bound of ``value``, rounded as the tensor that is read for it is."""
        quantizer = self._quantizers.get(value)
        known = None if quantizer is None else quantization_range(quantizer)
        return bound if known is None else known.rounded(bound)

    def _constant(self, node: ir.Node) -> ir.Value | None:
        """(q - zero point) * scale of a constant, as operators that are computed once."""
        q, scale, zero = input_of(node, 0), input_of(node, 1), optional_input(node, 2)
        tensors = [v for v in (q, scale, zero) if v is not None]
        if any(ir.convenience.get_const_tensor(v) is None for v in tensors) or "block_size" in node.attributes:
            return None
        if q.dtype not in _PLAIN or q.shape is None or scale.shape is None:
            return None
        b, rank, axis = self._b, len(q.shape), int(node.attributes.get_int("axis", 1))
        column = [1] * rank
        if len(scale.shape) == 1:
            column[axis % rank] = -1

        def along(one: ir.Value) -> ir.Value:
            return b.reshape(one, column) if len(column) > 1 and -1 in column else one

        out = b.op("Cast", q, to=int(dtype_of(scale)))
        if zero is not None and np.any(constant_of(zero)):
            out = b.op("Sub", out, along(b.op("Cast", zero, to=int(dtype_of(scale)))))
        out = b.op("Mul", out, along(scale))
        out.shape = q.shape
        return out
