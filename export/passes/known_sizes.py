# SPDX-License-Identifier: Apache-2.0
"""Follows sizes through the arithmetic that exporters write for them, where some are known and others open.

TensorFlow's padding to the same size is exported as Shape, Slice, Div, Ceil, Max, Concat and Pad: with an open batch
the shape is no constant, but the pads of rows and columns are. A Reshape to (batch, -1, 4) has as many rows as its
input has positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import PassResult

from portable_cam.export.graph.operators import FLOATS, ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of, optional_input

_LARGEST = 64  # elements; what is computed of sizes is small

#: Numbers as Python has them; the name of an open size, or None for what is not known.
_Sizes: TypeAlias = NDArray[np.object_]


class _OpenSizeError(Exception):
    """An axis or index is open, so that nothing is known of the result."""


def fold_known_sizes(model: ir.Model) -> PassResult:
    """Replace what is computed from known sizes alone by constants, and complete the shapes of what is reshaped or
    resized to sizes that are partly known; in place."""
    sizes: dict[ir.Value, _Sizes] = {}
    replaced, completed = [], False
    for node in model.graph:
        if node.domain not in ONNX_DOMAINS or len(node.outputs) != 1:
            continue
        out = node.outputs[0]
        completed |= _complete(out, _reshaped(node, sizes) if node.op_type == "Reshape" else _resized(node, sizes))
        found = _evaluate(node, sizes)
        if found is None or found.size > _LARGEST or out.dtype is None:
            continue
        sizes[out] = found
        if all(isinstance(number, int | float | bool) for number in found.flat) and not out.is_graph_output():
            replaced.append(out)
    for out in replaced:
        assert out.dtype is not None
        array = sizes[out].astype(out.dtype.numpy())
        value = ir.Value(name=f"{out.name}/known", const_value=ir.tensor(array, name=f"{out.name}/known"))
        value.shape, value.dtype = ir.Shape(array.shape), out.dtype
        model.graph.register_initializer(value)
        ir.convenience.replace_all_uses_with(out, value)
    return PassResult(model, completed or bool(replaced))


def _complete(value: ir.Value, dims: Sequence[Any] | None) -> bool:
    """Fill in sizes that inference left open; whether there were any."""
    shape = value.shape
    if dims is None or shape is None or len(shape) != len(dims):
        return False
    pairs = list(zip(shape.dims, dims, strict=True))
    value.shape = ir.Shape([new if isinstance(new, int) and not isinstance(old, int) else old for old, new in pairs])
    return any(isinstance(new, int) and not isinstance(old, int) for old, new in pairs)


def _reshaped(node: ir.Node, sizes: dict[ir.Value, _Sizes]) -> list[Any] | None:
    """The shape that a Reshape gives, the size that is left to it computed: open sizes that go in come out again."""
    data, target = node.inputs[0], node.inputs[1]
    if data is None or data.shape is None or target not in sizes or node.attributes.get_int("allowzero", 0) == 1:
        return None
    given = _dims(data)
    dims = [given[i] if size == 0 and i < len(given) else size for i, size in enumerate(sizes[target].flat)]
    if -1 not in dims:
        return dims
    left, taken = list(given), [size for size in dims if size != -1]
    dims[dims.index(-1)] = None
    if None in left or None in taken or any(taken.count(s) > left.count(s) for s in taken if isinstance(s, str)):
        return dims
    for size in taken:
        if isinstance(size, str):
            left.remove(size)
    numbers = [size for size in taken if isinstance(size, int)]
    if all(isinstance(size, int) for size in left) and 0 not in numbers and math.prod(left) % math.prod(numbers) == 0:
        dims[dims.index(None)] = math.prod(left) // math.prod(numbers)
    return dims


def _resized(node: ir.Node, sizes: dict[ir.Value, _Sizes]) -> list[Any] | None:
    """The shape that a Resize to sizes gives."""
    wanted = optional_input(node, 3)
    if node.op_type != "Resize" or wanted not in sizes or "axes" in node.attributes:
        return None
    kept = node.attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
    return list(sizes[wanted].flat) if kept else None


def _dims(value: ir.Value) -> list[Any]:
    return [] if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape.dims]


def _evaluate(node: ir.Node, sizes: dict[ir.Value, _Sizes]) -> _Sizes | None:
    """What is known of the numbers that a node gives; None where it does not compute with sizes."""
    if node.op_type == "Shape":
        return _shape(node)
    function = _FUNCTIONS.get(node.op_type)
    if function is None or not any(value in sizes for value in node.inputs):
        return None
    given: list[_Sizes | None] = []
    for value in node.inputs:
        if value is None or value in sizes:
            given.append(None if value is None else sizes[value])
            continue
        constant = constant_of(value)
        if constant is None or constant.size > _LARGEST:
            return None
        given.append(_numbers(constant))
    try:
        found = function(node, given)
    except (
        _OpenSizeError,
        ArithmeticError,
        IndexError,
        TypeError,
        ValueError,
    ):  # what fits no operator is refused elsewhere
        return None
    kind = node.outputs[0].dtype
    if kind is None or kind not in FLOATS:
        return found
    # a product that is rounded to the type that the model computes in may be an integer which the exact one is not
    rounded = [float(kind.numpy().type(n)) if isinstance(n, float) else n for n in found.flat]
    return np.array([*rounded, None], object)[:-1].reshape(found.shape)


def _numbers(array: NDArray[Any]) -> _Sizes:
    out = np.empty(array.shape, object)
    out[...] = array.tolist() if array.ndim else array.item()
    return out


def _shape(node: ir.Node) -> _Sizes | None:
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    dims = _dims(value)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(dims))
    return np.array(dims[start:end], object)


# -- operators -------------------------------------------------------------------------------------------------------


def _each(function: Callable[..., Any]) -> Callable[[ir.Node, Sequence[Any]], _Sizes]:
    def of(*numbers: Any) -> Any:
        return None if any(n is None or isinstance(n, str) for n in numbers) else function(*numbers)

    def evaluate(node: ir.Node, given: Sequence[Any]) -> _Sizes:
        return np.asarray(np.frompyfunc(of, len(given), 1)(*given), object)

    return evaluate


def _divide(a: float, b: float) -> float:
    """Of integers towards zero, as C does."""
    if not isinstance(a, int) or not isinstance(b, int):
        return a / b
    whole = abs(a) // abs(b)
    return whole if (a < 0) == (b < 0) else -whole


def _cast(node: ir.Node, given: Sequence[Any]) -> _Sizes:
    """The name of an open size stays one as an integer."""
    to = node.outputs[0].dtype
    if to in FLOATS or to == ir.DataType.BOOL:
        return _each(bool if to == ir.DataType.BOOL else float)(node, given[:1])
    return np.asarray(
        np.frompyfunc(lambda n: math.trunc(n) if isinstance(n, int | float) else n, 1, 1)(given[0]), object
    )


def _ints(given: Any) -> list[int]:
    found = [] if given is None else [*given.flat]
    if not all(isinstance(number, int) for number in found):
        raise _OpenSizeError
    return found


def _axes(given: Sequence[Any], index: int) -> list[int] | None:
    return _ints(given[index]) if len(given) > index and given[index] is not None else None


def _gather(node: ir.Node, given: Sequence[Any]) -> _Sizes:
    indices = np.array(_ints(given[1]), np.int64).reshape(given[1].shape)
    return np.asarray(np.take(given[0], indices, axis=node.attributes.get_int("axis", 0)), object)


def _slice(node: ir.Node, given: Sequence[Any]) -> _Sizes:
    starts, ends = _ints(given[1]), _ints(given[2])
    axes = _axes(given, 3) or list(range(len(starts)))
    steps = _axes(given, 4) or [1] * len(starts)
    out = given[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut = [slice(None)] * out.ndim
        low = None if step < 0 and end < -out.shape[axis] else end
        cut[axis] = slice(start, low, step)
        out = out[tuple(cut)]
    return np.asarray(out, object)


def _squeeze(node: ir.Node, given: Sequence[Any]) -> _Sizes:
    axes = _axes(given, 1)
    return np.asarray(np.squeeze(given[0], None if axes is None else tuple(axes)), object)


def _reshape(node: ir.Node, given: Sequence[Any]) -> _Sizes:
    dims = [given[0].shape[i] if d == 0 else d for i, d in enumerate(_ints(given[1]))]
    return np.asarray(given[0].reshape(dims), object)


def _transpose(node: ir.Node, given: Sequence[Any]) -> _Sizes:
    return np.asarray(np.transpose(given[0], node.attributes.get_ints("perm", None)), object)


def _concat(node: ir.Node, given: Sequence[Any]) -> _Sizes:
    return np.concatenate(list(given), axis=node.attributes.get_int("axis", 0))


def _reduced(function: Callable[[Any], Any]) -> Callable[[ir.Node, Sequence[Any]], _Sizes]:
    """Over all of a vector."""

    def evaluate(node: ir.Node, given: Sequence[Any]) -> _Sizes:
        if given[0].ndim != 1 or node.attributes.get_int("noop_with_empty_axes", 0) == 1:
            raise _OpenSizeError
        numbers = list(given[0])
        out = np.empty((1,) if node.attributes.get_int("keepdims", 1) else (), object)
        out[...] = None if any(n is None or isinstance(n, str) for n in numbers) else function(numbers)
        return out

    return evaluate


_FUNCTIONS: dict[str, Callable[[ir.Node, Sequence[Any]], _Sizes]] = {
    "Abs": _each(abs),
    "Add": _each(lambda a, b: a + b),
    "Cast": _cast,
    "Ceil": _each(lambda a: float(math.ceil(a))),
    "Concat": _concat,
    "Div": _each(_divide),
    "Equal": _each(lambda a, b: a == b),
    "Expand": lambda node, given: np.broadcast_to(given[0], np.broadcast_shapes(given[0].shape, _ints(given[1]))),
    "Floor": _each(lambda a: float(math.floor(a))),
    "Gather": _gather,
    "Greater": _each(lambda a, b: a > b),
    "GreaterOrEqual": _each(lambda a, b: a >= b),
    "Identity": lambda node, given: given[0],
    "Less": _each(lambda a, b: a < b),
    "LessOrEqual": _each(lambda a, b: a <= b),
    "Max": _each(max),
    "Min": _each(min),
    "Mod": _each(lambda a, b: a % b if a >= 0 and b > 0 else None),  # else it is one of two remainders
    "Mul": _each(lambda a, b: a * b),
    "Neg": _each(lambda a: -a),
    "ReduceProd": _reduced(math.prod),
    "ReduceSum": _reduced(sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _each(lambda a, b: a - b),
    "Transpose": _transpose,
    "Unsqueeze": lambda node, given: np.asarray(np.expand_dims(given[0], tuple(_ints(given[1]))), object),
    "Where": _each(lambda condition, a, b: a if condition else b),
}
