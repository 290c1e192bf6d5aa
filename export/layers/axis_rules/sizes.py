"""Sizes that a graph computes from sizes: the shape of a Reshape or the end of a Slice, as far as it is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import onnx_ir as ir

from portable_cam.export.graph.operators import ONNX_DOMAINS
from portable_cam.export.graph.values import constant_of
from portable_cam.export.layers.axes import Known, Size, scaled, size_of

_DEPTH = 64  # operators between a size and what it is computed from
_LONGEST = 4096


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
        return [_times(size, count) for size, count in zip(have, wanted, strict=True)]
    rank = max(len(have), len(wanted))
    missing: list[Size] = [1] * rank
    mine, new = ([*missing[len(sizes) :], *sizes] for sizes in (have, wanted))
    return [a if b == 1 else b for a, b in zip(mine, new, strict=True)]


def computed_sizes(value: ir.Value | None, known: Mapping[ir.Value, Known], depth: int = 0) -> list[Size] | None:
    """The content of an integer tensor of one axis, or of one number: numbers, names of open sizes, None for what is
    not known; None if not even its length is."""
    if value is None or depth > _DEPTH:
        return None
    array = constant_of(value)
    if array is not None:
        if array.dtype.kind not in "iub" or array.ndim > 1 or array.size > _LONGEST:
            return None
        return [int(n) for n in array.reshape(-1)]
    node = value.producer()
    if node is None or node.domain not in ONNX_DOMAINS or node.op_type not in _COMPUTED:
        return None
    return _COMPUTED[node.op_type](node, known, depth + 1)


_Computed = Callable[[ir.Node, Mapping[ir.Value, Known], int], "list[Size] | None"]


def _shape(node: ir.Node, known: Mapping[ir.Value, Known], depth: int) -> list[Size] | None:
    source = node.inputs[0]
    sizes = None if source is None else sizes_of(source, known)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 2**31)
    return None if sizes is None else sizes[start:end]


def _same(node: ir.Node, known: Mapping[ir.Value, Known], depth: int) -> list[Size] | None:
    return computed_sizes(node.inputs[0], known, depth)


def _concat(node: ir.Node, known: Mapping[ir.Value, Known], depth: int) -> list[Size] | None:
    parts = [computed_sizes(value, known, depth) for value in node.inputs]
    return None if None in parts else [size for part in parts if part is not None for size in part]


def _gather(node: ir.Node, known: Mapping[ir.Value, Known], depth: int) -> list[Size] | None:
    data, at = (computed_sizes(value, known, depth) for value in node.inputs[:2])
    if data is None or at is None or not all(isinstance(i, int) and -len(data) <= i < len(data) for i in at):
        return None
    return [data[i] for i in at if isinstance(i, int)]


def _slice(node: ir.Node, known: Mapping[ir.Value, Known], depth: int) -> list[Size] | None:
    given = [computed_sizes(value, known, depth) for value in node.inputs]
    data, ends = given[0], [g[0] if g else None for g in given[1:]]
    step = ends[3] if len(ends) > 3 else 1
    if data is None or not (isinstance(ends[0], int) and isinstance(ends[1], int) and isinstance(step, int)):
        return None
    return data[ends[0] : ends[1] : step]


def _pairs(of: Callable[[Size, Size], Size]) -> _Computed:
    def computed(node: ir.Node, known: Mapping[ir.Value, Known], depth: int) -> list[Size] | None:
        a, b = (computed_sizes(value, known, depth) for value in node.inputs[:2])
        if a is None or b is None or (len(a) != len(b) and 1 not in {len(a), len(b)}):
            return None
        count = max(len(a), len(b))
        return [of(a[i % len(a)], b[i % len(b)]) for i in range(count)]

    return computed


def _times(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if isinstance(a, int):
        a, b = b, a
    return scaled(a, Fraction(b)) if isinstance(b, int) and b > 0 else None


def _over(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int) and b:
        return a // b if a >= 0 and b > 0 else int(a / b)
    return scaled(a, Fraction(1, b)) if isinstance(b, int) and b > 0 else None


def _plus(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return a if b == 0 else b if a == 0 else None


def _minus(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    return a if b == 0 else None


def _equal(a: Size, b: Size) -> Size:
    if isinstance(a, str) or isinstance(b, str):  # an open size is no -1 or 0
        return int(a == b) if a == b or isinstance(a, int) or isinstance(b, int) else None
    return None if a is None or b is None else int(a == b)


def _where(node: ir.Node, known: Mapping[ir.Value, Known], depth: int) -> list[Size] | None:
    given = [computed_sizes(value, known, depth) for value in node.inputs]
    if any(g is None for g in given):
        return None
    which, yes, no = (g or [] for g in given)
    count = max(len(which), len(yes), len(no))
    if not all(len(g) in {1, count} for g in (which, yes, no)):
        return None
    pick = [which[i % len(which)] for i in range(count)]
    return [None if w is None else yes[i % len(yes)] if w else no[i % len(no)] for i, w in enumerate(pick)]


def _filled(node: ir.Node, known: Mapping[ir.Value, Known], depth: int) -> list[Size] | None:
    length = computed_sizes(node.inputs[0], known, depth)
    tensor = node.attributes.get("value")
    value: Size = 0 if tensor is None else int(tensor.as_tensor().numpy().reshape(-1)[0])
    if length is None or len(length) != 1 or not isinstance(length[0], int) or length[0] > _LONGEST:
        return None
    return [value] * length[0]


_COMPUTED: dict[str, _Computed] = {
    "Shape": _shape,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Where": _where,
    "ConstantOfShape": _filled,
    "Mul": _pairs(_times),
    "Div": _pairs(_over),
    "Add": _pairs(_plus),
    "Sub": _pairs(_minus),
    "Equal": _pairs(_equal),
    **dict.fromkeys(("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape"), _same),
}
