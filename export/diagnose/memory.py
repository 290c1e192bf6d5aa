"""Which tensors are alive at once when a graph runs, and how many bytes they take."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from portable_cam.export.autodiff.backward import depends_on
from portable_cam.export.autodiff.dequantized import is_constant
from portable_cam.export.diagnose.operations import macs_of, path_between, static_dims
from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import element_count, reads

#: Operators whose output is their input's memory under another shape.
_VIEWS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


#: Operators that may write over an input of the same size, as ONNX Runtime does, or that it fuses into the node before.
_IN_PLACE = frozenset(
    """
    Abs Add BatchNormalization Ceil Celu Clip Div Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log LogSoftmax
    Mish Mul Neg Reciprocal Relu Selu Sigmoid Softmax Softplus Softsign Sqrt Sub Sum Tanh ThresholdedRelu
    """.split()
)


#: Operators whose gradient needs no tensor of the forward pass beside constants, and those that need only the output.
_LINEAR = _VIEWS | frozenset(
    """
    Add AveragePool BatchNormalization Cast Concat DepthToSpace DequantizeLinear Expand Gather GlobalAveragePool Neg Pad
    ReduceMean ReduceSum Resize Slice SpaceToDepth Split Sub Sum Tile Transpose
    """.split()
)


_BY_OUTPUT = frozenset({"Exp", "LogSoftmax", "QuantizeLinear", "Relu", "Sigmoid", "Softmax", "Sqrt", "Tanh"})


@dataclass(frozen=True)
class _Step:
    """What one node reads and writes: the memory of tensors, or of their gradients."""

    reads: Collection[tuple[str, ir.Value]]
    writes: Collection[tuple[str, ir.Value]]
    in_place: bool


class Memory:
    """How much memory is alive at each step of a graph."""

    def __init__(self, nodes: Sequence[ir.Node], outputs: Iterable[ir.Value]) -> None:
        self._nodes = nodes
        self._outputs = list(outputs)
        self._bytes: dict[ir.Value, int] = {}
        self._elements: dict[ir.Value, int] = {}
        self._memory: dict[ir.Value, ir.Value] = {}
        self.unknown = 0
        for node in nodes:
            first = node.inputs[0] if node.inputs else None
            for output in node.outputs:
                if node.op_type in _VIEWS and first is not None and output is node.outputs[0]:
                    self._memory[output] = self._of(first)
        for value in (v for node in nodes for v in node.outputs if v.name and (v.uses() or v.is_graph_output())):
            self.unknown += self._measure(value) is None

    def forward(self, inputs: Iterable[ir.Value]) -> int:
        """The peak of the forward pass in bytes; the inputs are alive all the time."""
        return self._peak([self._forward_step(node) for node in self._nodes], inputs)

    def gradient(self, inputs: Iterable[ir.Value], source: ir.Value, ends: Sequence[ir.Value]) -> int:
        """The peak of the forward pass and of the gradient of the ``ends`` with respect to ``source``, in bytes."""
        affected = depends_on(self._nodes, [source])
        steps = [self._forward_step(node) for node in self._nodes]
        steps += [
            _Step(
                [
                    *(("gradient", o) for o in node.outputs if o in affected),
                    *(("value", self._of(v)) for v in _residuals(node, affected)),
                ],
                [("gradient", v) for v in node.inputs if v is not None and v in affected],
                node.op_type in _IN_PLACE or node.op_type in _VIEWS,
            )
            for node in reversed(path_between(self._nodes, [source], ends))
        ]
        return self._peak(steps, inputs, [("gradient", source)])

    def _forward_step(self, node: ir.Node) -> _Step:
        values = [self._of(v) for v in reads(node) if not is_constant(v)]
        written = [] if all(is_constant(v) for v in reads(node)) else [self._of(o) for o in node.outputs if o.name]
        return _Step(
            [("value", v) for v in values],
            [("value", o) for o in written if o not in values],
            node.op_type in _IN_PLACE,
        )

    def _peak(
        self, steps: Sequence[_Step], inputs: Iterable[ir.Value], ends: Iterable[tuple[str, ir.Value]] = ()
    ) -> int:
        kept = {("value", self._of(v)) for v in (*inputs, *self._outputs)} | set(ends)
        last: Mapping[tuple[str, ir.Value], int] = {
            key: i for i, step in enumerate(steps) for key in (*step.reads, *step.writes)
        }
        alive = {("value", self._of(v)) for v in inputs}
        now = peak = sum(self._size(key) for key in alive)
        for i, step in enumerate(steps):
            ending = {key for key in (*step.reads, *step.writes) if last[key] == i and key not in kept}
            new = {key for key in step.writes if key not in alive}
            over = now + sum(map(self._size, new))
            if step.in_place and len(new) > 0:
                written = self._size(next(iter(new)))
                over -= max((s for key in ending if key in alive and (s := self._size(key)) == written), default=0)
            peak = max(peak, over)
            alive |= new
            now += sum(map(self._size, new))
            gone = ending & alive
            alive -= gone
            now -= sum(map(self._size, gone))
        return peak

    def _of(self, value: ir.Value) -> ir.Value:
        """The tensor whose memory it is."""
        return self._memory.get(value, value)

    def _size(self, key: tuple[str, ir.Value]) -> int:
        kind, value = key
        self._measure(value)
        if kind == "value":
            return self._bytes[value]
        width = value.dtype.itemsize if value.dtype is not None and value.dtype in FLOATS else 4
        return math.ceil(self._elements[value] * width)

    def _measure(self, value: ir.Value) -> int | None:
        dims = static_dims(value)
        count = None if dims is None else element_count(dims)
        self._elements[value] = count or 0
        width = 4.0 if value.dtype in {None, ir.DataType.STRING} else value.dtype.itemsize
        self._bytes[value] = math.ceil((count or 0) * width)
        return count


def _residuals(node: ir.Node, affected: Collection[ir.Value]) -> list[ir.Value]:
    """The tensors of the forward pass that the gradient of a node reads, constants aside."""
    if node.op_type in _LINEAR:
        return []
    if node.op_type in _BY_OUTPUT:
        return [node.outputs[0]]
    operands = [value for value in node.inputs if value is not None and not is_constant(value)]
    if macs_of(node) != 0 or node.op_type == "Mul":  # the gradient of one operand is read with the other
        return (
            operands
            if sum(value in affected for value in operands) > 1
            else [value for value in operands if value not in affected]
        )
    return operands
