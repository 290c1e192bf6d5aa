"""Reductions. Their axes are an input (opset 18), constant or computed."""

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import dtype_of, element_count, known_dims, rank_of


def without_zeros(b: Builder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """x with each 0 replaced by 1, and a 1 for each that was replaced."""
    is_zero = b.op("Equal", x, 0)
    return b.op("Where", is_zero, b.number(1, x), x), b.cast_like(is_zero, x)


def product_of_others(b: Builder, x: ir.Value, product: ir.Value, zeros: ir.Value) -> ir.Value:
    """For each x, the product of the elements that it was multiplied with. ``product`` is that of all that are not
    zero, ``zeros`` their number."""
    nonzero, is_zero = without_zeros(b, x)
    elsewhere = b.op("Equal", b.op("Sub", zeros, is_zero), 0)  # no zero among the others
    return b.op("Where", elsewhere, b.op("Div", product, nonzero), b.number(0, x))


def _axes(v: Vjp) -> list[int] | None:
    """The reduced axes, none negative; None if they are computed at run time."""
    given = v.const_ints(1) if v.optional(1) is not None else []
    if given is None:
        return None
    rank = rank_of(v.x)
    if not given:
        return [] if v.int_attr("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in given)


def _keepdims(v: Vjp, value: ir.Value) -> ir.Value:
    """A reduced value with its reduced axes back as size 1."""
    if v.int_attr("keepdims", 1):
        return value
    axes = _axes(v)
    if axes is None:
        return v.b.op("Unsqueeze", value, v.input(1))
    return v.b.op("Unsqueeze", value, v.b.ints(axes)) if axes else value


def _spread(v: Vjp, value: ir.Value) -> list[Gradient]:
    return [v.b.spread(value, v.x), None]


@register("ReduceSum")
def reduce_sum(v: Vjp) -> Sequence[Gradient]:
    return _spread(v, _keepdims(v, v.g))


@register("ReduceMean")
def reduce_mean(v: Vjp) -> Sequence[Gradient]:
    b, axes, dims = v.b, _axes(v), known_dims(v.x)
    count = None if axes is None or dims is None else element_count([dims[a] for a in axes])
    if count is not None:
        scaled = b.op("Div", v.g, count)
    else:
        ratio = b.op("Div", b.op("Size", v.x), b.op("Size", v.y))
        scaled = b.op("Div", v.g, b.op("Cast", ratio, to=int(dtype_of(v.x))))
    return _spread(v, _keepdims(v, scaled))


@register("ReduceMax", "ReduceMin")
def reduce_extremum(v: Vjp) -> Sequence[Gradient]:
    """Shared equally among equal extrema, as torch.amax does."""
    b = v.b
    taken = b.op("Cast", b.op("Equal", v.x, _keepdims(v, v.y)), to=int(dtype_of(v.x)))
    axes = v.optional(1)
    count = b.op("ReduceSum", taken, axes, keepdims=1, noop_with_empty_axes=v.int_attr("noop_with_empty_axes", 0))
    return [b.op("Mul", b.op("Div", _keepdims(v, v.g), count), taken), None]


@register("ReduceProd")
def reduce_prod(v: Vjp) -> Sequence[Gradient]:
    """The product of the others. Where zeros take part it is 0, save for a single zero's own."""
    b, axes = v.b, v.optional(1)
    kept = {"keepdims": 1, "noop_with_empty_axes": v.int_attr("noop_with_empty_axes", 0)}
    nonzero, is_zero = without_zeros(b, v.x)
    product = b.op("ReduceProd", nonzero, axes, **kept)
    zeros = b.op("ReduceSum", is_zero, axes, **kept)
    return [b.op("Mul", _keepdims(v, v.g), product_of_others(b, v.x, product, zeros)), None]


@register("ReduceL2")
def reduce_l2(v: Vjp) -> Sequence[Gradient]:
    """x / ||x||, and 0 at the origin."""
    b, norm = v.b, _keepdims(v, v.y)
    zero = b.number(0, v.x)
    scaled = b.op("Where", b.op("Equal", norm, zero), zero, b.op("Div", _keepdims(v, v.g), norm))
    return [b.op("Mul", v.x, scaled), None]


@register("ReduceL1")
def reduce_l1(v: Vjp) -> Sequence[Gradient]:
    return [v.b.op("Mul", v.b.op("Sign", v.x), _keepdims(v, v.g)), None]


@register("ReduceSumSquare")
def reduce_sum_square(v: Vjp) -> Sequence[Gradient]:
    return [v.b.op("Mul", v.x, v.b.op("Mul", _keepdims(v, v.g), 2)), None]


@register("ReduceLogSum")
def reduce_log_sum(v: Vjp) -> Sequence[Gradient]:
    """y = log sum x, so the slope 1 / sum x is exp(-y)."""
    return _spread(v, _keepdims(v, v.b.op("Mul", v.g, v.b.op("Exp", v.b.op("Neg", v.y)))))


@register("ReduceLogSumExp")
def reduce_log_sum_exp(v: Vjp) -> Sequence[Gradient]:
    """The softmax, exp(x - y)."""
    share = v.b.op("Exp", v.b.op("Sub", v.x, _keepdims(v, v.y)))
    return [v.b.op("Mul", share, _keepdims(v, v.g)), None]
