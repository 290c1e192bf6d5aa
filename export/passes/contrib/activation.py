"""Activations: the family of GELU, and additions fused with an activation, a softmax or a dropout."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import constant_of
from portable_cam.export.passes.contrib.registry import Contrib, decomposes


@decomposes("Gelu")
def contrib_gelu(c: Contrib) -> ir.Value:
    """x Phi(x), with the error function."""
    return c.b.op("Gelu", c.input(0))


@decomposes("BiasGelu")
def bias_gelu(c: Contrib) -> ir.Value:
    """Gelu(x + bias)."""
    return c.b.op("Gelu", c.b.op("Add", c.input(0), c.input(1)))


@decomposes("FastGelu")
def fast_gelu(c: Contrib) -> ir.Value:
    """Gelu(x + bias) with the hyperbolic tangent."""
    bias = c.optional(1)
    x = c.input(0) if bias is None else c.b.op("Add", c.input(0), bias)
    return c.b.op("Gelu", x, approximate="tanh")


@decomposes("GemmFastGelu")
def gemm_fast_gelu(c: Contrib) -> ir.Value:
    """Gelu(x w + bias) with the hyperbolic tangent."""
    product, bias = c.b.op("MatMul", c.input(0), c.input(1)), c.optional(2)
    return c.b.op("Gelu", product if bias is None else c.b.op("Add", product, bias), approximate="tanh")


@decomposes("QuickGelu")
def quick_gelu(c: Contrib) -> ir.Value:
    """x sigmoid(alpha x)."""
    alpha = c.float_attr("alpha", 1.702)
    inside = c.input(0) if alpha == 1 else c.b.op("Mul", c.input(0), alpha)
    return c.b.op("Mul", c.input(0), c.b.op("Sigmoid", inside))


@decomposes("BiasSplitGelu")
def bias_split_gelu(c: Contrib) -> ir.Value:
    """left Gelu(right) of the two halves of x + bias along the last axis."""
    left, right = c.b.op_multi("Split", [c.b.op("Add", c.input(0), c.input(1))], 2, axis=-1, num_outputs=2)
    return c.b.op("Mul", left, c.b.op("Gelu", right))


@decomposes("BiasAdd")
def bias_add(c: Contrib) -> ir.Value:
    """x + bias + skip."""
    return c.b.op("Add", c.b.op("Add", c.input(0), c.input(1)), c.input(2))


@decomposes("BiasSoftmax")
def bias_softmax(c: Contrib) -> ir.Value:
    """The softmax of x + bias over the elements of all axes from ``axis`` on."""
    b, axis = c.b, c.int_attr("axis", 1)
    total = b.op("Add", c.input(0), c.input(1))
    if axis in {-1, c.rank(c.input(0)) - 1}:
        return b.op("Softmax", total, axis=-1)
    flat = b.op("Softmax", b.op("Flatten", total, axis=axis), axis=-1)
    return b.op("Reshape", flat, b.op("Shape", total))


@decomposes("BiasDropout")
def bias_dropout(c: Contrib) -> ir.Value:
    """x + bias + residual, as nothing is dropped in inference."""
    training, residual = c.optional(4), c.optional(2)
    if training is not None:
        content = constant_of(training)
        if content is None or content.any():
            raise c.refused("it drops at random, in training mode; export the model for inference")
    total = c.b.op("Add", c.input(0), c.input(1))
    return total if residual is None else c.b.op("Add", total, residual)


def activated(c: Contrib, x: ir.Value, parameters: Sequence[float]) -> ir.Value:
    """The activation that the attribute ``activation`` of a fused convolution or product names, applied to ``x``."""
    name = c.str_attr("activation", "")
    if not name:
        return x
    if name == "Clip":
        low, high = (*parameters, 0.0, 0.0)[:2]
        return c.b.op("Clip", x, _like(c.b, x, low), _like(c.b, x, high))
    known = {
        "Relu": (),
        "Tanh": (),
        "Sigmoid": (),
        "LeakyRelu": ("alpha",),
        "HardSigmoid": ("alpha", "beta"),
        "Elu": ("alpha",),
        "HardSwish": (),
        "Softplus": (),
    }
    if name not in known:
        raise c.refused(f"its activation is {name}, not one of {', '.join(sorted([*known, 'Clip']))}")
    return c.b.op(name, x, **dict(zip(known[name], parameters, strict=False)))


def _like(b: Builder, x: ir.Value, number: float) -> ir.Value:
    return b.constant(number, x.dtype or ir.DataType.FLOAT)
