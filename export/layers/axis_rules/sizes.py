"""Sizes that a graph computes from sizes: the shape of a Reshape or the end of a Slice, as far as it is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of
from portable_cam.export.layers.axes import Known, size_of
from portable_cam.export.layers.axis_rules.arithmetic import equal, minus, numeric, over, plus, times
from portable_cam.export.layers.relation import Size

_DEPTH = 64  # operators between a size and what it is computed from
_LONGEST = 4096
_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})


def named_sizes(value: ir.Value | None) -> list[Size] | None:
    """The sizes of a tensor, the names of those that are open; None if the rank is not known."""
    if value is None or value.shape is None:
        return None
    return [d if isinstance(d, int) else d.value for d in value.shape.dims]


def sizes_of(value: ir.Value, known: Mapping[ir.Value, Known]) -> list[Size] | None:
    """The sizes of a tensor; one that shape inference leaves open by the name that its axis gives it."""
    dims, found = named_sizes(value), known.get(value)
    axes = None if found is None else found.axes
    if found is None and (dims is None or not all(isinstance(d, int) for d in dims)):
        return _expanded(value, known, dims)
    if dims is None:
        return None if axes is None else [size_of(axis) for axis in axes]
    if axes is None or len(axes) != len(dims):
        return dims
    return [d if isinstance(d, int) else size_of(a) or d for d, a in zip(dims, axes, strict=True)]


def _expanded(value: ir.Value, known: Mapping[ir.Value, Known], dims: list[Size] | None) -> list[Size] | None:
    """The sizes of a constant that was expanded to sizes of the image, as a class token is to its batch."""
    node = value.producer()
    if node is None or node.op_type not in {"Expand", "Tile", "ConstantOfShape"} or node.domain not in ONNX_DOMAINS:
        return dims
    wanted = computed_sizes(node.inputs[-1], known)
    if wanted is None or node.op_type == "ConstantOfShape":
        return dims if wanted is None else wanted
    before = node.inputs[0]
    have = None if before is None else sizes_of(before, known)
    if have is None:
        return dims
    if node.op_type == "Tile":
        return [times(size, count) for size, count in zip(have, wanted, strict=True)]
    rank = max(len(have), len(wanted))
    missing: list[Size] = [1] * rank
    mine, new = ([*missing[len(sizes) :], *sizes] for sizes in (have, wanted))
    return [a if b == 1 else b for a, b in zip(mine, new, strict=True)]


def computed_sizes(value: ir.Value | None, known: Mapping[ir.Value, Known]) -> list[Size] | None:
    """The content of an integer tensor of one axis, or of one number: numbers, names of open sizes, None for what is
    not known; None if not even its length is."""
    found = _Walk(known).content(value)
    if found is None or found.ndim > 1:
        return None
    sizes = found.reshape(-1).tolist()
    return None if any(isinstance(size, float) for size in sizes) else sizes


def computed_array(value: ir.Value | None, known: Mapping[ir.Value, Known]) -> NDArray[np.int64] | None:
    """A small integer tensor that is constant or computed from sizes that are known; None if it is not."""
    found = _Walk(known).content(value)
    if found is None or _ints(found) is None:
        return None
    return found.astype(np.int64)


#: The content of a small tensor: numbers (a float only of a float tensor), names of open sizes, None for what is not
#: known.
_Content: TypeAlias = NDArray[np.object_]
_Computed: TypeAlias = Callable[[ir.Node, "_Walk"], "_Content | None"]


class _Walk:
    """Backwards from a tensor to the sizes that it is computed from, each tensor once."""

    def __init__(self, known: Mapping[ir.Value, Known]) -> None:
        self.known = known
        self._found: dict[ir.Value, _Content | None] = {}
        self._depth = 0

    def content(self, value: ir.Value | None) -> _Content | None:
        """None for what is no small tensor of numbers and sizes."""
        if value is None or self._depth > _DEPTH:
            return None
        if value not in self._found:
            self._depth += 1
            found = self._computed(value)
            self._depth -= 1
            self._found[value] = None if found is None else np.asarray(found, object)  # numpy makes 0-d ones entries
        return self._found[value]

    def _computed(self, value: ir.Value) -> Any:
        array = constant_of(value)
        if array is not None:
            if array.dtype.kind not in "iubf" or array.size > _LONGEST:
                return None
            return _objects(array.astype(float if array.dtype.kind == "f" else int).tolist(), array.shape)
        node = value.producer()
        if node is None or node.domain not in ONNX_DOMAINS or node.op_type not in _COMPUTED:
            return None
        return _COMPUTED[node.op_type](node, self)


def _objects(content: Any, shape: Sequence[int]) -> _Content:
    """Numbers and names as an array, which numpy would otherwise turn into one of text."""
    return np.array(content, dtype=object).reshape(shape)


def _inputs(node: ir.Node, walk: _Walk) -> list[_Content] | None:
    """The content of all inputs; None if that of one is not known."""
    found = [walk.content(value) for value in node.inputs]
    return None if any(content is None for content in found) else [c for c in found if c is not None]


def _ints(content: _Content) -> list[int] | None:
    """As a list of numbers; None if one is not known."""
    flat = content.reshape(-1).tolist()
    return flat if all(isinstance(n, int) for n in flat) else None


def _shape(node: ir.Node, walk: _Walk) -> _Content | None:
    source = node.inputs[0]
    sizes = None if source is None else sizes_of(source, walk.known)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 2**31)
    return None if sizes is None else _objects(sizes[start:end], (len(sizes[start:end]),))


def _same(node: ir.Node, walk: _Walk) -> _Content | None:
    return walk.content(node.inputs[0])


def _cast(node: ir.Node, walk: _Walk) -> _Content | None:
    data, to = walk.content(node.inputs[0]), ir.DataType(node.attributes.get_int("to", 0))
    if data is None:
        return None
    if to.is_floating_point():
        return _each(lambda n: float(n) if isinstance(n, int) else n, data)
    return _each(lambda n: int(n) if isinstance(n, float) else n, data) if to.is_integer() else None


def _reshape(node: ir.Node, walk: _Walk) -> _Content | None:
    found = _inputs(node, walk)
    shape = None if found is None else _ints(found[1])
    if found is None or shape is None:
        return None
    data = found[0]
    if 0 in shape and not node.attributes.get_int("allowzero", 0):
        shape = [data.shape[i] if n == 0 and i < data.ndim else n for i, n in enumerate(shape)]
    try:
        return data.reshape(shape)
    except ValueError:
        return None


def _unsqueeze(node: ir.Node, walk: _Walk) -> _Content | None:
    found = _inputs(node, walk)
    axes = None if found is None or len(found) < 2 else _ints(found[1])
    return None if found is None or axes is None else np.expand_dims(found[0], tuple(axes))


def _squeeze(node: ir.Node, walk: _Walk) -> _Content | None:
    found = _inputs(node, walk)
    axes = None if found is None or len(found) < 2 else _ints(found[1])
    if found is None or (axes is None and len(found) > 1):
        return None
    return np.squeeze(found[0], None if axes is None else tuple(axes))


def _transpose(node: ir.Node, walk: _Walk) -> _Content | None:
    data, perm = walk.content(node.inputs[0]), node.attributes.get_ints("perm", None)
    return None if data is None else data.transpose(perm)


def _concat(node: ir.Node, walk: _Walk) -> _Content | None:
    parts = [_content_or_open(value, walk) for value in node.inputs]
    if any(part is None for part in parts) or all(entry is None for part in parts for entry in part.reshape(-1)):  # type: ignore[union-attr]
        return None
    return np.concatenate([p for p in parts if p is not None], axis=node.attributes.get_int("axis", 0))


def _content_or_open(value: ir.Value | None, walk: _Walk) -> _Content | None:
    """The content; of integers that are computed at run time as many entries that are not known."""
    found = walk.content(value)
    dims = named_sizes(value) if found is None and value is not None and value.dtype in _INTEGERS else None
    if dims is None or not all(isinstance(d, int) for d in dims):
        return found
    count = math.prod(d for d in dims if isinstance(d, int))
    return _objects([None] * count, [d for d in dims if isinstance(d, int)]) if count <= _LONGEST else None


def _gather(node: ir.Node, walk: _Walk) -> _Content | None:
    found = _inputs(node, walk)
    at, axis = None if found is None else _ints(found[1]), node.attributes.get_int("axis", 0)
    if found is None or at is None or not all(-found[0].shape[axis] <= i < found[0].shape[axis] for i in at):
        return None
    return np.take(found[0], np.array(at, int).reshape(found[1].shape), axis=axis)


def _slice(node: ir.Node, walk: _Walk) -> _Content | None:
    found = _inputs(node, walk)
    given = None if found is None else [_ints(content) for content in found[1:]]
    if found is None or given is None or any(part is None for part in given):
        return None
    data, (starts, ends, *more) = found[0], [part or [] for part in given]
    axes = more[0] if more else range(len(starts))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    cut = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = data.shape[axis]
        cut[axis] = slice(start, end if step > 0 or end >= -size else None, step)
    return data[tuple(cut)]


def _where(node: ir.Node, walk: _Walk) -> _Content | None:
    found = _inputs(node, walk)
    if found is None:
        return None
    return _each(lambda which, yes, no: None if which is None else yes if which else no, *found)


def _filled(node: ir.Node, walk: _Walk) -> _Content | None:
    content = walk.content(node.inputs[0])
    length = None if content is None else _ints(content)
    tensor = node.attributes.get("value")
    value = 0 if tensor is None else tensor.as_tensor().numpy().reshape(-1)[0].item()
    if length is None or math.prod(length) > _LONGEST:
        return None
    return _objects([value] * math.prod(length), length)


def _range(node: ir.Node, walk: _Walk) -> _Content | None:
    found = _inputs(node, walk)
    ends = None if found is None else [content.reshape(-1).tolist()[0] for content in found]
    if ends is None or not all(isinstance(n, int) for n in ends) or not ends[2]:
        return None
    numbers = range(*ends)
    return None if len(numbers) > _LONGEST else _objects(list(numbers), (len(numbers),))


def _each(of: Callable[..., Any], *contents: _Content) -> _Content | None:
    """A function of the entries of arrays, broadcast to each other."""
    try:
        shape = np.broadcast_shapes(*(content.shape for content in contents))
    except ValueError:
        return None
    flat = [np.broadcast_to(content, shape).reshape(-1).tolist() for content in contents]
    return _objects([of(*entries) for entries in zip(*flat, strict=True)], shape)


def _entries(of: Callable[..., Any]) -> _Computed:
    """A rule that computes entry by entry."""

    def computed(node: ir.Node, walk: _Walk) -> _Content | None:
        found = _inputs(node, walk)
        return None if found is None else _each(of, *found)

    return computed


def _numbers(of: Callable[..., Any]) -> _Computed:
    """As :func:`_entries`, of numbers alone."""
    return _entries(lambda *n: of(*n) if all(isinstance(m, int | float) for m in n) else None)


def _modulo(node: ir.Node, walk: _Walk) -> _Content | None:
    if node.attributes.get_int("fmod", 0):
        return _numbers(lambda a, b: math.fmod(a, b) if b else None)(node, walk)
    return _numbers(lambda a, b: a % b if b else None)(node, walk)


def _clip(node: ir.Node, walk: _Walk) -> _Content | None:
    data, *bounds = [(value is not None, walk.content(value)) for value in node.inputs]
    found = data[1]
    for of, (given, limit) in zip((max, min), bounds, strict=False):
        if given and found is not None:
            at = of
            found = None if limit is None else _each(lambda a, b: at(a, b) if numeric(a, b) else None, found, limit)  # noqa: B023
    return found


_COMPUTED: dict[str, _Computed] = {
    "Shape": _shape,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Where": _where,
    "ConstantOfShape": _filled,
    "Range": _range,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Cast": _cast,
    "Mul": _entries(times),
    "Div": _entries(over),
    "Add": _entries(plus),
    "Sub": _entries(minus),
    "Mod": _modulo,
    "Equal": _entries(equal),
    "Less": _numbers(lambda a, b: int(a < b)),
    "Greater": _numbers(lambda a, b: int(a > b)),
    "Min": _numbers(min),
    "Max": _numbers(max),
    "Clip": _clip,
    "Abs": _numbers(abs),
    "Not": _numbers(lambda a: int(not a)),
    "And": _numbers(lambda a, b: int(a and b)),
    "Or": _numbers(lambda a, b: int(a or b)),
    "Neg": _numbers(lambda a: -a),
    "Floor": _numbers(lambda a: float(math.floor(a))),
    "Ceil": _numbers(lambda a: float(math.ceil(a))),
    "Identity": _same,
}
