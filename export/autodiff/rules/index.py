"""Operators that read or write by index: gathering and scattering are each other's adjoints."""

from collections.abc import Sequence

from portable_cam.errors import ModelError
from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.graph.values import constant_of, rank_of, static_dim


@register("Gather")
def gather(v: Vjp) -> Sequence[Gradient]:
    """One index: zero padding. A permutation: the inverse permutation. Otherwise an adding scatter."""
    b, rank, indices = v.b, rank_of(v.x), v.input(1)
    axis = v.int_attr("axis", 0) % rank
    size, content = static_dim(v.x, axis), constant_of(indices)
    if size == 0:
        raise ModelError(f"Gather node '{v.node.name}' picks from axis {axis} of '{v.x.name}', which is empty")
    if content is not None and size is not None:
        flat = [int(i) % size for i in content.reshape(-1)]
        if len(flat) == 1:
            g = b.op("Unsqueeze", v.g, b.ints([axis])) if content.ndim == 0 else v.g
            if content.ndim <= 1:
                pads = [0] * 2 * rank
                pads[axis], pads[rank + axis] = flat[0], size - 1 - flat[0]
                return [b.op("Pad", g, b.ints(pads)), None]
        if content.ndim == 1 and sorted(flat) == list(range(size)):
            inverse = sorted(range(size), key=flat.__getitem__)
            return [b.op("Gather", v.g, b.ints(inverse), axis=axis), None]
    # g: (before, indices, after) -> (before, n, after), scattered along the axis
    before, after = b.op("Shape", v.x, end=axis) if axis else None, b.op("Shape", v.x, start=axis + 1)
    parts = [p for p in (before, b.ints([-1]), after if axis < rank - 1 else None) if p is not None]
    g = b.op("Reshape", v.g, b.op("Concat", *parts, axis=0))
    column = b.reshape(indices, [-1, *[1] * (rank - 1 - axis)])
    spread = b.op("Expand", column, b.op("Shape", g))
    return [b.scatter_add("ScatterElements", v.x, spread, g, axis=axis), None]


@register("GatherElements")
def gather_elements(v: Vjp) -> Sequence[Gradient]:
    b = v.b
    axis = v.int_attr("axis", 0)
    return [b.scatter_add("ScatterElements", v.x, v.input(1), v.g, axis=axis), None]


@register("TopK")
def top_k(v: Vjp) -> Sequence[Gradient]:
    """The values' gradient goes back to where each value came from; the indices have none."""
    b = v.b
    indices = v.node.outputs[1]
    axis = v.int_attr("axis", -1)
    return [b.scatter_add("ScatterElements", v.x, indices, v.g, axis=axis), None]


@register("CumSum")
def cumsum(v: Vjp) -> Sequence[Gradient]:
    """The sum from the other end."""
    reverse, exclusive = 1 - v.int_attr("reverse", 0), v.int_attr("exclusive", 0)
    return [v.b.op("CumSum", v.g, v.input(1), reverse=reverse, exclusive=exclusive), None]


@register("Trilu")
def trilu(v: Vjp) -> Sequence[Gradient]:
    return [v.b.op("Trilu", v.g, v.optional(1), upper=v.int_attr("upper", 1)), None]
