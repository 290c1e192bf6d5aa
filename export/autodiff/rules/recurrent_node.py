"""The parts shared by LSTM, GRU and RNN: inputs, directions, padding, and the products outside the recurrence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp
from portable_cam.export.autodiff.rules.recurrent_activations import Activation, activation_functions
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.scan import Step, Tensors, write_recurrence
from portable_cam.export.graph.values import dtype_of

_X, _W, _R, _B, _SEQUENCE_LENS, _INITIAL_H, _INITIAL_C, _P = range(8)


@dataclass(frozen=True)
class Direction:
    """One direction of a node: T steps, N sequences, I features, G gates of H units each, side by side."""

    b: Builder
    x: ir.Value  # (T, N, I)
    w: ir.Value  # (G * H, I)
    r: ir.Value  # (G * H, H)
    w_bias: Gradient  # (G * H,)
    r_bias: Gradient  # (G * H,)
    peepholes: Gradient  # (3 * H,): input, output and forget gate
    before: ir.Value  # (T, N, H): the hidden state that each step starts from
    first_cell: ir.Value  # (N, H): the cell state that the first step starts from
    dy: Gradient  # (T, N, H): the gradient of each step's output, None for zeros
    last: Tensors  # (N, H) each: the gradients of the last hidden state and, for an LSTM, the last cell state
    mask: Gradient  # (T, N, 1): 1 for a step, 0 for padding; None if there is no padding
    padding: Gradient  # one minus that
    backwards: bool  # it reads from the last step to the first

    def from_x(self) -> ir.Value:
        """X W^T + Wb, (T, N, G * H)."""
        return self.linear(self.x, self.w, self.w_bias)

    def linear(self, states: ir.Value, weight: ir.Value, bias: Gradient) -> ir.Value:
        product = self.b.op("MatMul", states, self.b.op("Transpose", weight, perm=[1, 0]))
        return product if bias is None else self.b.op("Add", product, bias)

    def split(self, value: ir.Value, count: int, axis: int = -1) -> Tensors:
        """The gates of a value."""
        return self.b.op_multi("Split", [value], count, axis=axis, num_outputs=count)

    def masked(self, value: ir.Value) -> ir.Value:
        return value if self.mask is None else self.b.op("Mul", value, self.mask)

    def kept(self, value: ir.Value) -> ir.Value:
        """The factor from state to state: unchanged for a step, one for padding."""
        return value if self.padding is None else self.b.op("Add", self.masked(value), self.padding)

    def scan_back(self, step: Step, k: Tensors) -> tuple[list[ir.Value], list[ir.Value]]:
        """From the last step to the first. ``step`` gets the gradients of the states, that of the step's output
        added to the hidden one, and its factors."""

        def body(b: Builder, states: Tensors, inputs: Tensors) -> tuple[Tensors, Tensors]:
            if self.dy is None:
                return step(b, states, inputs)
            return step(b, [b.op("Add", states[0], inputs[-1]), *states[1:]], inputs[:-1])

        return write_recurrence(self.b, body, self.last, [*k, *present(self.dy)], reverse=not self.backwards)


@dataclass(frozen=True)
class CellGradients:
    """The gradients that the recurrence yields; all others follow from them for all steps at once."""

    to_x: ir.Value  # (T, N, G * H): the gradient of X W^T + Wb
    to_state: ir.Value  # (T, N, G * H): the gradient of H R^T + Rb
    first: Tensors  # (N, H) each: the gradients of the first states
    reset: Gradient = None  # (T, N, H): the reset hidden state that the last gate reads
    to_peepholes: Tensors = ()  # (T, N, H) each


Cell: TypeAlias = Callable[[Direction, Sequence[Activation]], CellGradients]


def recurrent(v: Vjp, functions: Sequence[str], gates: int, cell: Cell) -> Sequence[Gradient]:
    """The gradients of a node. ``functions`` are its default activation functions, ``cell`` its recurrence."""
    b = v.b
    if v.int_attr("layout", 0):
        raise v.unsupported("its layout is 1 (batch first)")
    direction = v.str_attr("direction", "forward")
    count = 2 if direction == "bidirectional" else 1
    _name_output(v)
    directions = [_direction(v, i, count, direction == "reverse" or i == 1) for i in range(count)]
    chosen = activation_functions(v, functions, count)
    found = [(d, cell(d, f)) for d, f in zip(directions, chosen, strict=True)]
    gradients: list[Gradient] = [None] * len(v.node.inputs)
    if v.needed(_X):
        parts = [b.op("MatMul", a.to_x, d.w) for d, a in found]
        gradients[_X] = reduce(lambda left, right: b.op("Add", left, right), parts)
    makers: dict[int, Callable[[Direction, CellGradients], ir.Value]] = {
        _W: lambda d, a: _outer(b, a.to_x, d.x),
        _R: lambda d, a: _to_r(d, a, gates),
        _B: lambda d, a: b.op("Concat", _over_steps(b, a.to_x), _over_steps(b, a.to_state), axis=0),
        _INITIAL_H: lambda d, a: a.first[0],
        _INITIAL_C: lambda d, a: a.first[1],
        _P: lambda d, a: b.op("Concat", *(_over_steps(b, p) for p in a.to_peepholes), axis=0),
    }
    for index, make in makers.items():
        if v.needed(index):
            made = [b.op("Unsqueeze", make(d, a), b.ints([0])) for d, a in found]
            gradients[index] = made[0] if count == 1 else b.op("Concat", *made, axis=0)
    return gradients


def _direction(v: Vjp, index: int, count: int, backwards: bool) -> Direction:
    b = v.b

    def own(value: ir.Value, axis: int = 0) -> ir.Value:
        if count == 1:
            return b.op("Squeeze", value, b.ints([axis]))
        return b.op("Gather", value, b.ints(index), axis=axis)

    def own_if_given(value: Gradient, axis: int = 0) -> Gradient:
        return None if value is None else own(value, axis)

    w, r, y = own(v.input(_W)), own(v.input(_R)), own(v.y, 1)
    bias, lengths = own_if_given(v.optional(_B)), v.optional(_SEQUENCE_LENS)
    w_bias, r_bias = (None, None) if bias is None else b.op_multi("Split", [bias], 2, axis=0, num_outputs=2)
    zeros = b.op("Expand", b.number(0, v.x), b.op("Concat", b.dim(v.x, 1), b.dim(v.input(_R), 2), axis=0))
    first = own_if_given(v.optional(_INITIAL_H)) or zeros
    mask, padding = (None, None) if lengths is None else _masks(b, v.x, lengths)
    dy = own_if_given(v.grads[0], 1)
    last = [own_if_given(grad) or zeros for grad in [*v.grads[1:], None, None]]
    if lengths is not None:  # the last state of a sequence without steps is zero in ONNX Runtime, whatever the first
        some = b.op("Cast", b.op("Greater", b.op("Unsqueeze", lengths, b.ints([1])), 0), to=int(dtype_of(v.x)))
        last = [b.op("Mul", grad, some) for grad in last]
    lstm = v.node.op_type == "LSTM"
    return Direction(
        b,
        v.x,
        w,
        r,
        w_bias,
        r_bias,
        peepholes=own_if_given(v.optional(_P)) if lstm else None,
        before=_before(b, y, first, lengths, backwards),
        first_cell=(own_if_given(v.optional(_INITIAL_C)) if lstm else None) or zeros,
        dy=dy if dy is None or mask is None else b.op("Mul", dy, mask),
        last=last[: 2 if lstm else 1],
        mask=mask,
        padding=padding,
        backwards=backwards,
    )


def _before(b: Builder, y: ir.Value, first: ir.Value, lengths: Gradient, backwards: bool) -> ir.Value:
    """The hidden state that each step starts from, (T, N, H): the output of the step before, the first state at the
    beginning. The beginning of a padded sequence that is read backwards is its last step."""
    ahead = b.op("Unsqueeze", first, b.ints([0]))
    if not backwards:
        return b.op("Concat", ahead, b.op("Slice", y, b.ints([0]), b.ints([-1]), b.ints([0])), axis=0)
    shifted = b.op("Slice", y, b.ints([1]), b.ints([2**62]), b.ints([0]))
    before = b.op("Concat", shifted, ahead, axis=0)
    if lengths is None:
        return before
    follows = b.op("Unsqueeze", b.op("Less", b.op("Add", _steps(b, y), 1), _int64(b, lengths)), b.ints([2]))
    return b.op("Where", follows, before, first)


def _masks(b: Builder, x: ir.Value, lengths: ir.Value) -> tuple[ir.Value, ir.Value]:
    """1 for the steps of each sequence and 0 for its padding, and the reverse; (T, N, 1)."""
    inside = b.op("Unsqueeze", b.op("Less", _steps(b, x), _int64(b, lengths)), b.ints([2]))
    mask = b.op("Cast", inside, to=int(dtype_of(x)))
    return mask, b.op("Cast", b.op("Not", inside), to=int(dtype_of(x)))


def _steps(b: Builder, like: ir.Value) -> ir.Value:
    """0, 1, ..., T - 1 as (T, 1)."""
    count = b.op("Squeeze", b.op("Shape", like, end=1), b.ints([0]))
    return b.op("Unsqueeze", b.op("Range", b.ints(0), count, b.ints(1)), b.ints([1]))


def _int64(b: Builder, value: ir.Value) -> ir.Value:
    return b.op("Cast", value, to=int(ir.DataType.INT64))


def _name_output(v: Vjp) -> None:
    """The states of all steps are read from the output Y, which a node may leave out."""
    if not v.y.name:
        v.y.name, v.y.type = v.b.fresh("Y"), v.x.type


def _outer(b: Builder, gradient: ir.Value, states: ir.Value) -> ir.Value:
    """The sum over steps and sequences of gradient (G * H) times state (I): (G * H, I)."""
    return b.op("Gemm", b.op("Flatten", gradient, axis=2), b.op("Flatten", states, axis=2), transA=1)


def _to_r(d: Direction, a: CellGradients, gates: int) -> ir.Value:
    if a.reset is None:
        return _outer(d.b, a.to_state, d.before)
    *others, last = d.split(a.to_state, gates)
    first = d.b.op("Concat", *others, axis=-1)
    return d.b.op("Concat", _outer(d.b, first, d.before), _outer(d.b, last, a.reset), axis=0)


def _over_steps(b: Builder, value: ir.Value) -> ir.Value:
    """(T, N, ...) -> (...)"""
    return b.op("ReduceSum", value, b.ints([0, 1]), keepdims=0)


def carry(b: Builder, gradient: ir.Value, state: ir.Value, padding: Tensors) -> ir.Value:
    """Where a step is padding, the gradient of the state is passed on."""
    return b.op("Add", gradient, b.op("Mul", state, padding[0])) if padding else gradient


def present(value: Gradient) -> list[ir.Value]:
    """A list of the value, or of nothing."""
    return [] if value is None else [value]
