"""Normalisations and softmax.

For x normalised over a set of axes, n = (x - mean) * r with r = 1 / sqrt(var + eps), and a gradient h with respect to
n, the gradient with respect to x is r (h - mean(h) - n mean(h n)), the means over the same axes (Ioffe and Szegedy
2015, arXiv 1502.03167; Ba et al. 2016, arXiv 1607.06450).
"""

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.autodiff.registry import Gradient, Vjp, register
from portable_cam.export.graph.operators import HALVES
from portable_cam.export.graph.values import rank_of, static_dim


def _normalised(v: Vjp, x: ir.Value, axes: Sequence[int], epsilon: float) -> tuple[ir.Value, ir.Value]:
    """The normalised x and r, both recomputed, for the forward node does not give them. In float32 for halves, as the
    forward node computes them: the squares of float16 overflow from 256 on."""
    b = v.b
    x = b.op("Cast", x, to=int(ir.DataType.FLOAT)) if x.dtype in HALVES else x
    centred = b.op("Sub", x, b.op("ReduceMean", x, b.ints(axes), keepdims=1))
    variance = b.op("ReduceMean", b.op("Mul", centred, centred), b.ints(axes), keepdims=1)
    r = b.op("Reciprocal", b.op("Sqrt", b.op("Add", variance, epsilon)))
    return b.op("Mul", centred, r), r


def _through_normalisation(v: Vjp, n: ir.Value, r: ir.Value, h: ir.Value, axes: Sequence[int]) -> ir.Value:
    """The gradient for x, of the gradient h for the normalised n; in the type of n."""
    b = v.b
    h = b.cast_like(h, n)
    mean_h = b.op("ReduceMean", h, b.ints(axes), keepdims=1)
    mean_hn = b.op("ReduceMean", b.op("Mul", h, n), b.ints(axes), keepdims=1)
    return b.op("Mul", r, b.op("Sub", b.op("Sub", h, mean_h), b.op("Mul", n, mean_hn)))


def _per_channel(v: Vjp, vector: ir.Value) -> ir.Value:
    """(C,) as (C, 1, ...): broadcasts over (N, C, *spatial)."""
    return v.b.reshape(vector, [-1, *[1] * (rank_of(v.x) - 2)])


@register("BatchNormalization")
def batch_normalization(v: Vjp) -> Sequence[Gradient]:
    """At inference, where mean and variance are constants: y = (x - mean) r scale + bias."""
    if v.int_attr("training_mode", 0):
        raise v.unsupported("it is in training mode; export the model in evaluation mode")
    b, scale = v.b, v.input(1)
    r = b.op("Reciprocal", b.op("Sqrt", b.op("Add", v.input(4), v.float_attr("epsilon", 1e-5))))
    slope = b.op("Mul", scale, r)
    gradients: list[Gradient] = [None] * 5
    if v.needed(0):
        scaled = b.op("Mul", v.g_broadcast, _per_channel(v, slope))
        gradients[0] = scaled if v.g_broadcast is v.g else b.spread(scaled, v.x)
    if any(v.needed(i) for i in range(1, 5)):
        others = b.ints([0, *range(2, rank_of(v.x))])
        sums = b.op("ReduceSum", v.g, others, keepdims=0)
        centred = b.op("Sub", v.x, _per_channel(v, v.input(3)))
        products = b.op("ReduceSum", b.op("Mul", v.g, centred), others, keepdims=0)
        gradients[1] = b.op("Mul", products, r)
        gradients[2] = sums
        gradients[3] = b.op("Neg", b.op("Mul", sums, slope))
        gradients[4] = b.op("Mul", b.op("Mul", products, scale), b.op("Mul", b.op("Pow", r, 3), -0.5))
    return gradients


@register("LayerNormalization")
def layer_normalization(v: Vjp) -> Sequence[Gradient]:
    """Its other two outputs, the mean and r, have dmean/dx = 1 / count and dr/dx = -r^2 n / count."""
    b, rank = v.b, rank_of(v.x)
    axes = list(range(v.int_attr("axis", -1) % rank, rank))
    n, r = _normalised(v, v.x, axes, v.float_attr("epsilon", 1e-5))
    g, to_mean, to_r = (*v.grads, None, None)[:3]
    parts: list[ir.Value] = []
    if g is not None:
        parts.append(_through_normalisation(v, n, r, b.op("Mul", g, v.input(1)), axes))
    if to_mean is not None:
        parts.append(b.op("Mul", b.cast_like(to_mean, n), _one_over_count(v, r)))
    if to_r is not None:
        slope = b.op("Mul", b.op("Neg", b.op("Mul", r, r)), _one_over_count(v, r))
        parts.append(b.op("Mul", n, b.op("Mul", b.cast_like(to_r, n), slope)))
    to_x = parts[0] if len(parts) == 1 and g is not None else b.op("Expand", b.op("Sum", *parts), b.shape(v.x))
    to_scale = to_bias = None
    if v.needed(1):
        like_g = None if g is None else b.op("Mul", g, b.cast_like(n, g))
        to_scale = b.zeros_like(v.input(1)) if like_g is None else b.unbroadcast(like_g, v.input(1), v.y)
    if v.needed(2):
        to_bias = b.zeros_like(v.input(2)) if g is None else b.unbroadcast(g, v.input(2), v.y)
    to_x = b.cast_like(to_x, v.x)
    return [to_x, to_scale, to_bias]


def _one_over_count(v: Vjp, reduced: ir.Value) -> ir.Value:
    """One over the number of elements of x for each one of ``reduced``."""
    b = v.b
    return b.op("Reciprocal", b.cast_like(b.op("Div", b.op("Size", v.x), b.op("Size", reduced)), reduced))


@register("InstanceNormalization")
def instance_normalization(v: Vjp) -> Sequence[Gradient]:
    b, rank = v.b, rank_of(v.x)
    axes = list(range(2, rank))
    n, r = _normalised(v, v.x, axes, v.float_attr("epsilon", 1e-5))
    h = b.op("Mul", v.g, _per_channel(v, v.input(1)))
    others = b.ints([0, *axes])
    return [
        b.cast_like(_through_normalisation(v, n, r, h, axes), v.x) if v.needed(0) else None,
        b.op("ReduceSum", b.op("Mul", v.g, b.cast_like(n, v.g)), others, keepdims=0) if v.needed(1) else None,
        b.op("ReduceSum", v.g, others, keepdims=0) if v.needed(2) else None,
    ]


@register("GroupNormalization")
def group_normalization(v: Vjp) -> Sequence[Gradient]:
    """As instance normalisation over groups of channels: (N, C, *) viewed as (N, G, -1). Scale and bias are per
    channel (opset 21)."""
    b, groups = v.b, v.int_attr("num_groups", 1)
    grouped = b.ints([0, groups, -1])
    n, r = _normalised(v, b.op("Reshape", v.x, grouped), [2], v.float_attr("epsilon", 1e-5))
    h = b.op("Reshape", b.op("Mul", v.g, _per_channel(v, v.input(1))), grouped)
    others = b.ints([0, *range(2, rank_of(v.x))])
    to_scale: Gradient = None
    if v.needed(1):
        to_scale = b.op("ReduceSum", b.op("Mul", v.g, b.reshape_like(b.cast_like(n, v.g), v.x)), others, keepdims=0)
    return [
        b.cast_like(b.reshape_like(_through_normalisation(v, n, r, h, [2]), v.x), v.x) if v.needed(0) else None,
        to_scale,
        b.op("ReduceSum", v.g, others, keepdims=0) if v.needed(2) else None,
    ]


@register("MeanVarianceNormalization")
def mean_variance_normalization(v: Vjp) -> ir.Value:
    axes = v.ints_attr("axes", [0, 2, 3])
    n, r = _normalised(v, v.x, axes, 1e-9)
    return v.b.cast_like(_through_normalisation(v, n, r, v.g, axes), v.x)


@register("LpNormalization")
def lp_normalization(v: Vjp) -> ir.Value:
    """y = x / ||x||_p along one axis: (g - sign(x)|y|^(p-1) sum(g y)) / ||x||."""
    b, axis, p = v.b, _axis(v), v.int_attr("p", 2)
    kind = "ReduceL2" if p == 2 else "ReduceL1"
    norm = b.op(kind, v.x, b.ints([axis]), keepdims=1)
    inner = b.op("ReduceSum", b.op("Mul", v.g, v.y), b.ints([axis]), keepdims=1)
    direction = v.y if p == 2 else b.op("Sign", v.x)
    zero = b.number(0, norm)
    scale = b.op("Where", b.op("Equal", norm, zero), zero, b.op("Reciprocal", norm))  # where x is 0, so is y
    return b.op("Mul", b.op("Sub", v.g, b.op("Mul", direction, inner)), scale)


@register("LRN")
def local_response_normalization(v: Vjp) -> ir.Value:
    """y = x S^-beta, S = bias + alpha/n * (sum of x^2 over n neighbouring channels):
    dx = g S^-beta - 2 alpha beta / n * x * W(g y / S), where W sums over the mirrored window (Krizhevsky et al. 2012).
    """
    b, size = v.b, v.int_attr("size", 1)
    alpha, beta, bias = v.float_attr("alpha", 1e-4), v.float_attr("beta", 0.75), v.float_attr("bias", 1.0)
    before, after = (size - 1) // 2, size // 2

    def window_sum(value: ir.Value, begin: int, end: int) -> ir.Value:
        # channels as the height of a one-channel image: (N, 1, C, rest)
        channels = static_dim(v.x, 1) or -1
        if channels == -1:
            raise v.unsupported("its number of channels is known only at run time")
        image = b.op("Unsqueeze", b.op("Reshape", value, b.ints([0, channels, -1])), b.ints([1]))
        mean = b.op("AveragePool", image, kernel_shape=[size, 1], pads=[begin, 0, end, 0], count_include_pad=1)
        return b.reshape_like(b.op("Mul", mean, size), v.x)

    squares = window_sum(b.op("Mul", v.x, v.x), before, after)
    s = b.op("Add", b.op("Mul", squares, alpha / size), bias)
    neighbours = window_sum(b.op("Div", b.op("Mul", v.g, v.y), s), after, before)
    direct = b.op("Mul", v.g, b.op("Pow", s, -beta))
    return b.op("Sub", direct, b.op("Mul", b.op("Mul", v.x, 2 * alpha * beta / size), neighbours))


@register("Softmax")
def softmax(v: Vjp) -> ir.Value:
    """y (g - sum(g y))."""
    b = v.b
    product = b.op("Mul", v.g, v.y)
    total = b.op("ReduceSum", product, b.ints([_axis(v)]), keepdims=1)
    return b.op("Sub", product, b.op("Mul", v.y, total))


@register("LogSoftmax")
def log_softmax(v: Vjp) -> ir.Value:
    """g - exp(y) sum(g)."""
    b = v.b
    total = b.op("ReduceSum", v.g, b.ints([_axis(v)]), keepdims=1)
    return b.op("Sub", v.g, b.op("Mul", b.op("Exp", v.y), total))


def _axis(v: Vjp) -> int:
    """The node's ``axis`` attribute, the last axis by default, as a non-negative number."""
    return v.int_attr("axis", -1) % rank_of(v.x)
