"""Which tensor makes each number of another: followed backwards through what only moves numbers.

The columns of a detector's output are told apart by it: a sigmoid makes the classes, a product the centres and sizes, a
convolution the coefficients of masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.graph.operators import FLOATS
from portable_cam.export.graph.values import constant_of, known_dims, optional_input

Numbers = NDArray[np.int32]

_MOST = 2**25  # elements: larger outputs than any detector has
_DEEP = 32  # products of products
_COMPUTED = -1  # an element that the tensor's own operator computes
_ELSEWHERE = -2  # one that another tensor makes than the one that is looked for
_SAME = frozenset({"Identity", "Dropout", "Cast", "QuantizeLinear", "DequantizeLinear"})
_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_CHOOSE = frozenset({"Gather", "GatherElements", "GatherND", "Compress"})
_PROBABILITIES = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})
# between 0 and 1 where all that goes in is
_KEEP_BOUNDS = frozenset({"Mul", "Sqrt", "Min", "Max", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "TopK"})
_INDICES = frozenset({"ArgMax", "ArgMin", "NonZero", "NonMaxSuppression"})
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class _ComputesError(Exception):
    """A node does not only move numbers, or what it moves is not known."""


@dataclass(frozen=True)
class Makers:
    """Which tensor makes each element of a tensor.

    Attributes:
        numbers: In the tensor's shape, each the place of its maker in ``values``; an open batch counts as one image.
        values: The makers: results of operators that compute, inputs, constants.
    """

    numbers: Numbers
    values: tuple[ir.Value, ...]

    def along(self, axis: int) -> list[frozenset[ir.Value]]:
        """The makers of each entry of an axis, over all that the other axes hold."""
        rows = np.moveaxis(self.numbers, axis, 0)
        rows = rows.reshape(len(rows), -1)
        return [frozenset(self.values[i] for i in np.unique(row)) for row in rows]


def makers_of(value: ir.Value) -> Makers | None:
    """The makers of a tensor's elements; None where sizes are not known.

    Args:
        value: Of a normalised graph.
    """
    numbered: dict[ir.Value, int] = {}
    found = _followed(value, lambda maker, shape: np.full(shape, numbered.setdefault(maker, len(numbered))))
    if found is None:
        return None
    present, numbers = np.unique(found, return_inverse=True)
    values = tuple(numbered)
    return Makers(numbers.reshape(found.shape).astype(np.int32), tuple(values[i] for i in present))


def entries_of(value: ir.Value, maker: ir.Value, axis: int) -> Numbers | None:
    """For each element of a tensor which entry along an axis of one of its makers it is, below zero where another
    tensor makes it; None where sizes are not known."""

    def entries(source: ir.Value, shape: list[int]) -> Numbers:
        if source is not maker:
            return np.full(shape, _ELSEWHERE, np.int32)
        along = np.arange(shape[axis], dtype=np.int32).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return np.broadcast_to(along, shape)

    return _followed(value, entries)


def _followed(value: ir.Value, made_by: Callable[[ir.Value, list[int]], NDArray[Any]]) -> Numbers | None:
    """A number for each element of a tensor, given by those that compute elements and moved along with these."""
    found: dict[ir.Value, Numbers] = {}
    for current in moved_with(value):
        made = _moved(current, found)
        if made is None:
            sizes = known_dims(current)
            shape = [1 if d is None else d for d in sizes or []]
            if sizes is None or math.prod(shape) > _MOST:
                return None
            made = np.full(shape, _COMPUTED, np.int32)
        if (made == _COMPUTED).any():
            made = np.where(made == _COMPUTED, made_by(current, list(made.shape)), made).astype(np.int32)
        found[current] = made
    dims = known_dims(value)
    if dims is None or any(d not in {None, n} for d, n in zip(dims, found[value].shape, strict=True)):
        return None
    return found[value]


def is_probability(value: ir.Value) -> bool:
    """Whether a tensor lies between 0 and 1 by the operators that make it: a sigmoid, a softmax, products of these."""
    return _is_bounded(value, {}, 0)


def _is_bounded(value: ir.Value, known: dict[ir.Value, bool], depth: int) -> bool:
    if value not in known:
        known[value] = False
        known[value] = depth <= _DEEP and _makes_bounded(value, known, depth)
    return known[value]


def _makes_bounded(value: ir.Value, known: dict[ir.Value, bool], depth: int) -> bool:
    node = value.producer()
    if node is None:
        constant = constant_of(value)
        return constant is not None and constant.size > 0 and bool(((constant >= 0) & (constant <= 1)).all())
    if node.op_type in _PROBABILITIES:
        return True
    if node.op_type in _KEEP_BOUNDS and node.outputs[0] is value:
        wanted = list(node.inputs if node.op_type in {"Mul", "Min", "Max"} else node.inputs[:1])
    elif node.op_type == "Pow":
        power = constant_of(node.inputs[1])
        wanted = list(node.inputs[:1]) if power is not None and bool((power >= 0).all()) else []
    elif node.op_type in _CHOOSE | {"Clip"} and not moved_from(value):
        wanted = list(node.inputs[:1])
    else:
        makers = makers_of(value)
        wanted = [] if makers is None else list(makers.values)
        if value in wanted:
            return False
    return bool(wanted) and all(v is not None and _is_bounded(v, known, depth + 1) for v in wanted)


def is_integer(value: ir.Value, depth: int = 0) -> bool:
    """Whether a tensor holds whole numbers that were counted: places found by ArgMax, TopK or a selection."""
    node = value.producer()
    if node is None or depth > _DEEP:
        return False
    if node.op_type in _INDICES or (node.op_type == "TopK" and value is node.outputs[1]):
        return True
    if value.dtype is not None and value.dtype not in FLOATS and value.dtype != ir.DataType.BOOL:
        return True
    return node.op_type == "Cast" and node.inputs[0] is not None and is_integer(node.inputs[0], depth + 1)


def is_linear(value: ir.Value) -> bool:
    """Whether a tensor is what a convolution or a product gives, with nothing behind it."""
    node = value.producer()
    if node is not None and node.op_type == "Add":  # a bias
        varying = [v for v in node.inputs if v is not None and constant_of(v) is None]
        node = varying[0].producer() if len(varying) == 1 else None
    return node is not None and node.op_type in _LINEAR


# -- moving -----------------------------------------------------------------------------------------------------------


def moved_with(value: ir.Value) -> list[ir.Value]:
    """A tensor behind all that it is moved from, makers first."""
    order: list[ir.Value] = []
    state: dict[ir.Value, bool] = {}
    pending = [value]
    while pending:
        current = pending[-1]
        if current in state:
            pending.pop()
            if not state[current]:
                state[current] = True
                order.append(current)
            continue
        state[current] = False
        pending.extend(v for v in moved_from(current) if v not in state)
    return order


def moved_from(value: ir.Value) -> list[ir.Value]:
    """What a tensor is moved from, as far as it is."""
    node = value.producer()
    if node is None or node.domain not in {"", "ai.onnx"}:
        return []
    chooses = node.op_type == "Gather" and constant_of(node.inputs[1]) is None
    if node.op_type in _SAME | _RESHAPES | {"Transpose", "Slice", "Split", "Gather", "Expand"} and not chooses:
        return [v for v in node.inputs[:1] if v is not None]
    if node.op_type == "Concat":
        return [v for v in node.inputs if v is not None]
    if node.op_type == "ScatterND":
        return [v for v in (node.inputs[0], node.inputs[2]) if v is not None]
    if node.op_type in _NEUTRAL:
        return [v for v in node.inputs if v is not None and constant_of(v) is None]
    return []


def _moved(value: ir.Value, found: Mapping[ir.Value, Numbers]) -> Numbers | None:
    """The numbers of a tensor that a node moves together from others; None where it computes."""
    node = value.producer()
    sources = moved_from(value)
    if node is None or not sources or any(source not in found for source in sources):
        return None
    try:
        if node.op_type in _SAME:
            return found[sources[0]]
        if node.op_type in _RESHAPES:
            return _reshaped(value, found[sources[0]])
        return _MOVES[node.op_type](node, value, found)
    except (_ComputesError, ValueError, IndexError):  # the latter where sizes are not known
        return None


def _reshaped(value: ir.Value, numbers: Numbers) -> Numbers:
    dims = known_dims(value) or []
    if dims.count(None) > 1:  # the batch is one image, and one more may follow from the number of elements
        dims = [1, *dims[1:]] if dims[0] is None else dims
    return numbers.reshape([-1 if d is None else d for d in dims])


def _constant(node: ir.Node, index: int) -> NDArray[np.int64]:
    found = constant_of(optional_input(node, index))
    if found is None:
        raise _ComputesError
    return found.astype(np.int64)


def _transpose(node: ir.Node, value: ir.Value, found: Mapping[ir.Value, Numbers]) -> Numbers:
    numbers = found[moved_from(value)[0]]
    return numbers.transpose(node.attributes.get_ints("perm", list(range(numbers.ndim))[::-1]))


def _slice(node: ir.Node, value: ir.Value, found: Mapping[ir.Value, Numbers]) -> Numbers:
    numbers = found[moved_from(value)[0]]
    starts, stops = _constant(node, 1), _constant(node, 2)
    axes = _constant(node, 3) if optional_input(node, 3) is not None else np.arange(len(starts))
    steps = _constant(node, 4) if optional_input(node, 4) is not None else np.ones_like(starts)
    cut = [slice(None)] * numbers.ndim
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        open_end = step < 0 and stop < -numbers.shape[axis]
        cut[axis] = slice(int(start), None if open_end else int(stop), int(step))
    return numbers[tuple(cut)]


def _split(node: ir.Node, value: ir.Value, found: Mapping[ir.Value, Numbers]) -> Numbers:
    numbers, axis = found[moved_from(value)[0]], node.attributes.get_int("axis", 0)
    size, count = numbers.shape[axis], len(node.outputs)
    part = -(-size // count)
    given = optional_input(node, 1) is not None
    ends = np.cumsum(_constant(node, 1)) if given else np.minimum(np.arange(1, count + 1) * part, size)
    if ends[-1] != size:
        raise _ComputesError
    return np.split(numbers, ends[:-1], axis)[list(node.outputs).index(value)]


def _concat(node: ir.Node, value: ir.Value, found: Mapping[ir.Value, Numbers]) -> Numbers:
    return np.concatenate([found[source] for source in moved_from(value)], node.attributes.get_int("axis", 0))


def _gather(node: ir.Node, value: ir.Value, found: Mapping[ir.Value, Numbers]) -> Numbers:
    return np.take(found[moved_from(value)[0]], _constant(node, 1), node.attributes.get_int("axis", 0))


def _expand(node: ir.Node, value: ir.Value, found: Mapping[ir.Value, Numbers]) -> Numbers:
    numbers = found[moved_from(value)[0]]
    return np.broadcast_to(numbers, np.broadcast_shapes(numbers.shape, tuple(_constant(node, 1))))


def _scatter(node: ir.Node, value: ir.Value, found: Mapping[ir.Value, Numbers]) -> Numbers:
    if node.attributes.get_string("reduction", "none") != "none":
        raise _ComputesError
    data, updates = (found[source] for source in moved_from(value))
    numbers = data.copy()
    numbers[tuple(np.moveaxis(_constant(node, 1), -1, 0))] = updates
    return numbers


def _neutral(node: ir.Node, value: ir.Value, found: Mapping[ir.Value, Numbers]) -> Numbers:
    """Passed on where the constant operand changes nothing, as a scale of 1 behind the scales of the boxes."""
    (source,) = moved_from(value)
    other = next(constant_of(v) for v in node.inputs if v is not source)
    if other is None or (node.op_type in {"Div", "Sub"} and node.inputs[0] is not source):
        raise _ComputesError
    return np.where(other == _NEUTRAL[node.op_type], found[source], np.int32(_COMPUTED)).astype(np.int32)


_NEUTRAL: Mapping[str, float] = {"Mul": 1, "Div": 1, "Add": 0, "Sub": 0}
_MOVES: Mapping[str, Callable[[ir.Node, ir.Value, Mapping[ir.Value, Numbers]], Numbers]] = {
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Gather": _gather,
    "Expand": _expand,
    "ScatterND": _scatter,
    **dict.fromkeys(_NEUTRAL, _neutral),
}


def runs(columns: Sequence[frozenset[ir.Value]], start: int = 0) -> list[tuple[int, int]]:
    """(start, stop) of neighbouring columns that the same tensors make, from a column on."""
    found: list[tuple[int, int]] = []
    for i in range(start, len(columns)):
        if found and columns[i] == columns[i - 1]:
            found[-1] = (found[-1][0], i + 1)
        else:
            found.append((i, i + 1))
    return found
