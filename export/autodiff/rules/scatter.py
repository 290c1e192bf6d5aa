"""Operators that copy elements to other positions, and scatters.

An operator that only copies, applied to the positions of its input's elements, gives the position that each element of
its output came from: its adjoint adds the gradient there.
"""

from collections.abc import Callable, Sequence

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.autodiff.rules.reduce import product_of_others, without_zeros
from portable_cam.export.graph.operators import HALVES
from portable_cam.export.graph.values import dtype_of, element_count, known_dims


def by_position(v: Vjp, copy: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """The adjoint of ``copy``, the operator applied to another first input."""
    return add_at(v, copy(v.b.positions(v.x)), v.g)


def add_at(v: Vjp, positions: ir.Value, g: ir.Value) -> ir.Value:
    """Zeros in the shape of the first input, with ``g`` added at the positions in its flattened form."""
    b = v.b
    if positions.dtype != ir.DataType.INT64:
        positions = b.op("Cast", positions, to=int(ir.DataType.INT64))
    half = dtype_of(g) in HALVES  # ONNX Runtime's CPU provider has no adding scatter of these types
    count = element_count(known_dims(v.x) or [None])
    size = b.ints([count]) if count is not None else b.length(v.x)
    zeros = b.op("Expand", b.constant([0], ir.DataType.FLOAT if half else dtype_of(g)), size)
    updates = b.reshape(b.op("Cast", g, to=int(ir.DataType.FLOAT)) if half else g, [-1])
    flat = b.op("ScatterElements", zeros, b.reshape(positions, [-1]), updates, axis=0, reduction="add")
    return b.reshape_like(b.cast_like(flat, g), v.x)


@register("Compress")
def compress(v: Vjp) -> Sequence[Gradient]:
    axis = {"axis": v.int_attr("axis", 0)} if "axis" in v.node.attributes else {}
    return [by_position(v, lambda positions: v.b.op("Compress", positions, v.input(1), **axis)), None]


@register("GatherND")
def gather_nd(v: Vjp) -> Sequence[Gradient]:
    batch = v.int_attr("batch_dims", 0)
    if batch:
        return [by_position(v, lambda positions: v.b.op("GatherND", positions, v.input(1), batch_dims=batch)), None]
    return [v.b.scatter_add("ScatterND", v.x, v.input(1), v.g), None]


@register("ReverseSequence")
def reverse_sequence(v: Vjp) -> Sequence[Gradient]:
    """Its own inverse."""
    attributes = {"batch_axis": v.int_attr("batch_axis", 1), "time_axis": v.int_attr("time_axis", 0)}
    return [v.b.op("ReverseSequence", v.g, v.input(1), **attributes), None]


@register("MaxUnpool")
def max_unpool(v: Vjp) -> Sequence[Gradient]:
    """Read from the position that each element was written to."""
    b = v.b
    if v.optional(2) is not None:
        raise v.unsupported("it has an output_shape: ONNX Runtime reads the indices otherwise than the standard")
    taken = b.op("GatherElements", b.reshape(v.g, [-1]), b.reshape(v.input(1), [-1]), axis=0)
    return [b.reshape_like(taken, v.x), None]


def _scatter(v: Vjp, read: Callable[[ir.Value], ir.Value], **attributes: int) -> Sequence[Gradient]:
    """ScatterElements and ScatterND, by their reduction. ``read`` gathers the elements that the updates were written
    to."""
    b, reduction, op_type = v.b, v.str_attr("reduction", "none"), v.node.op_type

    def write(data: ir.Value, updates: ir.Value, reduction: str) -> ir.Value:
        return b.op(op_type, data, v.input(1), updates, reduction=reduction, **attributes)

    if reduction == "add":
        return [v.g, None, read(v.g) if v.needed(2) else None]
    if reduction == "none":  # the data's gradient is zero where they were overwritten
        zeros = b.zeros_like(v.input(2))
        return [write(v.g, zeros, "none") if v.needed(0) else None, None, read(v.g) if v.needed(2) else None]
    if reduction == "mul":
        (data, data_zeros), (updates, update_zeros) = (without_zeros(b, v.input(i)) for i in (0, 2))
        product, zeros = write(data, updates, "mul"), write(data_zeros, update_zeros, "add")
        others = product_of_others(b, v.input(2), read(product), read(zeros)) if v.needed(2) else None
        return [
            b.op("Mul", v.g, product_of_others(b, v.x, product, zeros)) if v.needed(0) else None,
            None,
            b.op("Mul", read(v.g), others) if others is not None else None,
        ]
    # min and max: to those that were taken, shared equally between ties
    equal = b.op("Equal", v.x, v.y), b.op("Equal", v.input(2), read(v.y))
    data_taken, updates_taken = (b.cast_like(mask, v.g) for mask in equal)
    # counted in float32: ONNX Runtime's CPU provider has no adding scatter of half types
    ones = [b.op("Cast", mask, to=int(ir.DataType.FLOAT)) for mask in equal]
    share = b.op("Div", v.g, b.cast_like(write(ones[0], ones[1], "add"), v.g))
    return [b.op("Mul", share, data_taken), None, b.op("Mul", read(share), updates_taken) if v.needed(2) else None]


@register("ScatterElements")
def scatter_elements(v: Vjp) -> Sequence[Gradient]:
    axis = v.int_attr("axis", 0)
    return _scatter(v, lambda y: v.b.op("GatherElements", y, v.input(1), axis=axis), axis=axis)


@register("ScatterND")
def scatter_nd(v: Vjp) -> Sequence[Gradient]:
    return _scatter(v, lambda y: v.b.op("GatherND", y, v.input(1)))
