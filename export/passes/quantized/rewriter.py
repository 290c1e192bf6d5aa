"""Helpers of the rewrites of quantised operators: new nodes before the one that is replaced, one DequantizeLinear for
all readers of the same integers, and the scales of the tensors between the operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from portable_cam.export.autodiff.dequantized import moves
from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of, input_of, optional_input

Given: TypeAlias = ir.Value | None
_Attributes: TypeAlias = Mapping[str, ir.Attr | int | Sequence[int]]
_Scale: TypeAlias = tuple[ir.Value, Given]

#: Operators that the standard defines on 8-bit integers and that compute; which of their inputs are quantised tensors.
_ON_INTEGERS: dict[str, slice] = {
    "Clip": slice(0, 3), "Max": slice(0, None), "MaxPool": slice(0, 1), "Min": slice(0, None), "Relu": slice(0, 1),
    "ReduceMax": slice(0, 1), "ReduceMin": slice(0, 1), "Resize": slice(0, 1), "Where": slice(1, 3),
}  # fmt: skip


class Rewriter:
    """Walks the graph once; each rewrite appends its nodes before the node it replaces."""

    _at: ir.Node  #: the node that is rewritten

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._scales: dict[ir.Value, _Scale] = {}
        self._floats: dict[tuple[ir.Value, ir.Value, Given, int | None], ir.Value] = {}
        self._count = 0
        self.changed = False

    def run(self, rewrites: Mapping[tuple[str, str], Callable[[Rewriter, ir.Node], None]]) -> bool:
        """Apply to each node the rewrite that its domain and operator have, if any; returns whether any changed."""
        for node in list(self._graph):
            self._at = node
            rewrite = rewrites.get((node.domain, node.op_type))
            if rewrite is not None:
                rewrite(self, node)
            elif node.domain in ONNX_DOMAINS and node.op_type in _ON_INTEGERS:
                self._to_float_side(node)
            else:
                self.note(node)
        return self.changed

    # -- new nodes -------------------------------------------------------------------------------------------------

    def op(
        self, op_type: str, *inputs: Given, attributes: _Attributes | None = None, name: str | None = None
    ) -> ir.Value:
        """A node of the standard before the node that is rewritten; its first output."""
        return self.op_multi(op_type, inputs, 1, attributes, name)[0]

    def op_multi(
        self,
        op_type: str,
        inputs: Sequence[Given],
        outputs: int,
        attributes: _Attributes | None = None,
        name: str | None = None,
    ) -> Sequence[ir.Value]:
        self._count += 1
        name = name or f"{self._at.name}/{op_type}_{self._count}"
        node = ir.node(op_type, inputs, attributes or {}, num_outputs=outputs, name=name)
        for i, value in enumerate(node.outputs):
            value.name = f"{self._at.outputs[0].name}/{op_type}_{self._count}" + (f"_{i}" if i else "")
        self._graph.insert_before(self._at, node)
        return node.outputs

    def constant(self, array: np.ndarray | Sequence[int]) -> ir.Value:
        self._count += 1
        name = f"{self._at.outputs[0].name}/constant_{self._count}"
        value = ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name))
        value.shape, value.dtype = ir.Shape(np.shape(array)), ir.DataType.from_numpy(np.asarray(array).dtype)
        self._graph.register_initializer(value)
        return value

    def dequantized(self, value: ir.Value, scale: ir.Value, zero: Given, axis: int | None = None) -> ir.Value:
        """The dequantised value of an integer tensor, one node for all readers. ``axis``: that of several scales."""
        size = scale.shape[0] if scale.shape is not None and len(scale.shape) == 1 else None
        array = constant_of(scale)
        size = array.size if array is not None else size
        if size == 1 and array is not None and array.ndim == 1:
            scale, zero = self._scalar(scale), None if zero is None else self._scalar(zero)
        along = axis if size not in {1, None} else None
        key = (value, scale, zero, along)
        if key not in self._floats:
            out = self.op("DequantizeLinear", value, scale, zero, attributes={} if along is None else {"axis": along})
            again = any(known is value for known, *_ in self._floats)
            out.name = f"{value.name}/dequantized" + (f"_{self._count}" if again else "")
            self._floats[key] = out
        return self._floats[key]

    def _scalar(self, value: ir.Value) -> ir.Value:
        """Quantised operators take a scale of shape (1,); QuantizeLinear reads that as one value along an axis."""
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            return value
        name = f"{value.name}/scalar"
        known = self._graph.initializers.get(name)
        if known is not None:
            return known
        scalar = ir.Value(name=name, const_value=ir.tensor(tensor.numpy().reshape(()), dtype=tensor.dtype, name=name))
        scalar.shape, scalar.dtype = ir.Shape([]), tensor.dtype
        self._graph.register_initializer(scalar)
        return scalar

    def scale_of(self, value: ir.Value) -> _Scale | None:
        """The scale and zero point that the integers of ``value`` were made with, if an operator before it has them."""
        return self._scales.get(value)

    def finish(self, node: ir.Node, result: ir.Value, scale: Given, zero: Given) -> None:
        """Replace the node by ``result`` quantised, or as it is if the operator gives floats."""
        self.changed = True
        out = node.outputs[0]
        name, kind, shape = out.name, out.type, out.shape
        if scale is None:
            new = self.op("Identity", result)
        else:
            array = constant_of(scale)
            if array is not None and array.shape == (1,):
                scale, zero = self._scalar(scale), None if zero is None else self._scalar(zero)
            new = self.op("QuantizeLinear", result, scale, zero, name=node.name)
            self._scales[new] = (scale, zero)
        ir.convenience.replace_all_uses_with(out, new, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)
        new.name, new.type, new.shape = name, kind, shape

    def channels_first(self, value: ir.Value, rank: int) -> ir.Value:
        """(N, ..., C) -> (N, C, ...)"""
        return self.op("Transpose", value, attributes={"perm": [0, rank - 1, *range(1, rank - 1)]})

    def channels_last(self, value: ir.Value, rank: int) -> ir.Value:
        """(N, C, ...) -> (N, ..., C)"""
        return self.op("Transpose", value, attributes={"perm": [0, *range(2, rank), 1]})

    def attributes(self, node: ir.Node, *but: str) -> dict[str, ir.Attr]:
        return {name: attribute for name, attribute in node.attributes.items() if name not in but}

    # -- integer tensors between the quantised operators -----------------------------------------------------------

    def note(self, node: ir.Node) -> None:
        """Remember the scale of the integer tensors that a node makes."""
        if node.op_type == "QuantizeLinear" and node.domain in ONNX_DOMAINS and node.inputs[1] is not None:
            array = constant_of(node.inputs[1])
            if array is None or array.size == 1:
                self._scales[node.outputs[0]] = (node.inputs[1], optional_input(node, 2))
        elif node.op_type == "DynamicQuantizeLinear":
            self._scales[node.outputs[0]] = (node.outputs[1], node.outputs[2])
        elif moves(node) and node.inputs[0] in self._scales:
            for output in node.outputs:
                self._scales[output] = self._scales[node.inputs[0]]
        elif node.op_type == "DequantizeLinear" and node.domain in ONNX_DOMAINS and "axis" not in node.attributes:
            key = (input_of(node, 0), input_of(node, 1), optional_input(node, 2), None)
            self._floats.setdefault(key, node.outputs[0])

    def _to_float_side(self, node: ir.Node) -> None:
        """An operator on integers becomes the same one on their dequantised values; exact, for it only chooses among
        them (Resize, which interpolates, rounds as before)."""
        span = _ON_INTEGERS[node.op_type]
        data = node.inputs[span]
        known = next((self._scales[v] for v in data if v in self._scales), None)
        if known is None or not all(
            v is None or v not in self._scales or _same_scale(self._scales[v], known) for v in data
        ):
            return
        scale, zero = known
        inputs = list(node.inputs)
        inputs[span] = [None if v is None else self.dequantized(v, scale, zero) for v in data]
        offset = constant_of(zero)
        if node.op_type == "Relu" and not (offset is not None and not offset.any()):
            # not below the dequantised value of the integer 0
            kind = zero.dtype if zero is not None and zero.dtype is not None else ir.DataType.UINT8
            floor = self.dequantized(self.constant(np.zeros((), kind.numpy())), scale, zero)
            result = self.op("Clip", inputs[0], floor)
        else:
            result = self.op_multi(node.op_type, inputs, len(node.outputs), node.attributes)[0]
        self.finish(node, result, scale, zero)


def _same_scale(left: _Scale, right: _Scale) -> bool:
    """Whether two pairs of scale and zero point have the same content."""
    for a, b in zip(left, right, strict=True):
        one, other = constant_of(a), constant_of(b)
        if a is not b and (one is None or other is None or not np.array_equal(one.reshape(-1), other.reshape(-1))):
            return False
    return True
