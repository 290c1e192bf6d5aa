"""Reductions. Their axes are an input (opset 18), constant or computed."""

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.builder import element_count, known_dims, rank_of
from portable_cam.export.rules.registry import Gradient, Vjp, register


def _axes(v: Vjp) -> list[int] | None:
    """The reduced axes, none negative; None if they are computed at run time."""
    rank = rank_of(v.x)
    if v.optional(1) is None:
        return [] if v.int_attr("noop_with_empty_axes", 0) else list(range(rank))
    given = v.const_ints(1)
    if given is None:
        return None
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
        scaled = b.op("Div", v.g, b.op("Cast", ratio, to=int(_dtype(v))))
    return _spread(v, _keepdims(v, scaled))


@register("ReduceMax", "ReduceMin")
def reduce_extremum(v: Vjp) -> Sequence[Gradient]:
    """Shared equally among equal extrema, as torch.amax does."""
    b = v.b
    taken = b.op("Cast", b.op("Equal", v.x, _keepdims(v, v.y)), to=int(_dtype(v)))
    axes = v.optional(1)
    count = b.op("ReduceSum", taken, axes, keepdims=1, noop_with_empty_axes=v.int_attr("noop_with_empty_axes", 0))
    return [b.op("Mul", b.op("Div", _keepdims(v, v.g), count), taken), None]


@register("ReduceL2")
def reduce_l2(v: Vjp) -> Sequence[Gradient]:
    """x / ||x||, and 0 at the origin."""
    b, norm = v.b, _keepdims(v, v.y)
    zero = b.constant(0, _dtype(v))
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


def _dtype(v: Vjp) -> ir.DataType:
    assert v.x.dtype is not None
    return v.x.dtype
