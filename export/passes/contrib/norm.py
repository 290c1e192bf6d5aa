"""Normalisations, most of them fused with the additions before them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.graph.values import static_dim
from portable_cam.export.passes.contrib.nhwc import channels_first, channels_last
from portable_cam.export.passes.contrib.registry import Contrib, decomposes


@decomposes("LayerNormalization")
def contrib_layer_normalization(c: Contrib) -> Sequence[ir.Value]:
    """LayerNormalization as ONNX Runtime had it before the standard did."""
    return c.b.op_multi(
        "LayerNormalization",
        c.node.inputs,
        len(c.node.outputs),
        axis=c.int_attr("axis", -1),
        epsilon=c.float_attr("epsilon", 1e-5),
    )


@decomposes("SkipLayerNormalization")
def skip_layer_normalization(c: Contrib) -> Sequence[ir.Value]:
    """LayerNormalization(x + skip + bias), and that sum as output 3."""
    total = _sum(c, c.input(0), c.input(1), c.optional(4))
    beta = c.optional(3)
    given = [total, c.input(2), *([] if beta is None else [beta])]
    y, *statistics = c.b.op_multi("LayerNormalization", given, 3, axis=-1, epsilon=c.float_attr("epsilon", 1e-12))
    return [y, *statistics, total]


@decomposes("SimplifiedLayerNormalization")
def simplified_layer_normalization(c: Contrib) -> Sequence[ir.Value]:
    """x / sqrt(mean(x^2) + epsilon) * scale, and the inverse root as output 1."""
    axis = c.int_attr("axis", -1)
    rank = 0 if axis == -1 else c.rank(c.input(0))
    axes = [-1] if axis == -1 else list(range(axis % rank, rank))
    return _rms(c, c.input(0), c.input(1), axes, c.float_attr("epsilon", 1e-5))


@decomposes("SkipSimplifiedLayerNormalization")
def skip_simplified_layer_normalization(c: Contrib) -> Sequence[ir.Value]:
    """The same of x + skip + bias, and that sum as output 3."""
    total = _sum(c, c.input(0), c.input(1), c.optional(3))
    y, inverse = _rms(c, total, c.input(2), [-1], c.float_attr("epsilon", 1e-12))
    if c.uses(1):
        raise c.refused("its output 1, the mean, is used")
    return [y, inverse, inverse, total]


@decomposes("GroupNorm")
def group_norm(c: Contrib) -> ir.Value:
    """GroupNormalization of (N, H, W, C) or (N, C, H, W), and SiLU after it if its attribute asks for it."""
    last = bool(c.int_attr("channels_last", 1))
    x = channels_first(c, c.input(0), 4) if last else c.input(0)
    return _grouped(c, x, last)


@decomposes("SkipGroupNorm")
def skip_group_norm(c: Contrib) -> Sequence[ir.Value]:
    """The same of x + skip + bias, and that sum as output 1; skip is (N, H, W, C), (N, 1, 1, C) or (N, C)."""
    last = bool(c.int_attr("channels_last", 1))
    if not last:
        raise c.refused("its layout is channels first, which ONNX Runtime has no kernel for")
    skip, bias = c.input(3), c.optional(4)
    if c.rank(skip) == 2:
        skip = c.b.op("Unsqueeze", skip, c.b.ints([1, 2]))
    total = _sum(c, c.input(0), skip, bias)
    return [_grouped(c, channels_first(c, total, 4), last), total]


@decomposes("EmbedLayerNormalization")
def embed_layer_normalization(c: Contrib) -> Sequence[ir.Value]:
    """LayerNormalization of the sum of word, position and segment embeddings, the counts of the mask, and the sum."""
    b = c.b
    ids, segments, positions, mask = c.input(0), c.optional(1), c.optional(8), c.optional(7)
    total = b.op("Gather", c.input(2), ids)
    if positions is None:
        length = b.op("Shape", ids, start=1, end=2)
        total = b.op("Add", total, b.op("Slice", c.input(3), b.ints([0]), length, b.ints([0])))
    else:
        total = b.op("Add", total, b.op("Gather", c.input(3), positions))
    if segments is not None:
        total = b.op("Add", total, b.op("Gather", c.input(4), segments))
    y = b.op("LayerNormalization", total, c.input(5), c.input(6), axis=-1, epsilon=c.float_attr("epsilon", 1e-12))
    if mask is None:
        count = b.op("Expand", b.constant(0, ir.DataType.INT32), b.op("Shape", ids, end=1))
    else:
        count = b.op("ReduceSum", mask, b.ints([1]), keepdims=0)
    return [y, count, total]


def _sum(c: Contrib, x: ir.Value, skip: ir.Value, bias: ir.Value | None) -> ir.Value:
    total = c.b.op("Add", x, skip)
    return total if bias is None else c.b.op("Add", total, bias)


def _rms(c: Contrib, x: ir.Value, scale: ir.Value, axes: Sequence[int], epsilon: float) -> list[ir.Value]:
    b = c.b
    square = b.op("ReduceMean", b.op("Mul", x, x), b.ints(axes), keepdims=1)
    inverse = b.op("Reciprocal", b.op("Sqrt", b.op("Add", square, epsilon)))
    return [b.op("Mul", b.op("Mul", x, inverse), scale), inverse]


def _grouped(c: Contrib, x: ir.Value, last: bool) -> ir.Value:
    b = c.b
    if c.int_attr("activation", 0) not in {0, 1}:
        raise c.refused(f"its activation is {c.int_attr('activation', 0)}; 0 is none, 1 is SiLU")
    if static_dim(c.input(1), 0) is None:
        raise c.refused("the number of its channels is not known")
    y = b.op(
        "GroupNormalization",
        x,
        c.input(1),
        c.input(2),
        num_groups=c.int_attr("groups", 1),
        epsilon=c.float_attr("epsilon", 1e-5),
    )
    y.shape = ir.Shape([None] * 4)  # for which the standard has no inference
    y = b.op("Mul", y, b.op("Sigmoid", y)) if c.int_attr("activation", 0) else y
    return channels_last(c, y, 4) if last else y
