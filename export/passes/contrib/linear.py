"""Convolutions and matrix products with something fused into them."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.passes.contrib.activation import activated
from portable_cam.export.passes.contrib.registry import Contrib, decomposes

_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_ACTIVATION = ("activation_alpha", "activation_beta", "activation_gamma")


@decomposes("FusedConv")
def fused_conv(c: Contrib) -> ir.Value:
    """activation(Conv(x, w, bias) + z)."""
    return convolved(c, c.input(0), c.optional(3))


@decomposes("FusedGemm")
def fused_gemm(c: Contrib) -> ir.Value:
    """activation(alpha a b + beta c)."""
    attributes = {"alpha": c.float_attr("alpha", 1.0), "beta": c.float_attr("beta", 1.0)}
    product = c.b.op(
        "Gemm", *c.node.inputs, **attributes, transA=c.int_attr("transA", 0), transB=c.int_attr("transB", 0)
    )
    return activated(c, product, _parameters(c))


@decomposes("FusedMatMul", "TransposeMatMul")
def fused_matmul(c: Contrib) -> ir.Value:
    """alpha a b, either of them transposed first, in its last two axes or its batch axes."""
    return _product(c)


def _product(c: Contrib) -> ir.Value:
    left, right = (_transposed(c, c.input(i), "AB"[i]) for i in (0, 1))
    product = c.b.op("MatMul", left, right)
    alpha = c.float_attr("alpha", 1.0)
    return product if alpha == 1 else c.b.op("Mul", product, alpha)


@decomposes("FusedMatMulActivation")
def fused_matmul_activation(c: Contrib) -> ir.Value:
    """activation(alpha a b)."""
    return activated(c, _product(c), _parameters(c))


def _parameters(c: Contrib) -> list[float]:
    return [c.float_attr(name, 0.0) for name in _ACTIVATION if name in c.node.attributes]


def convolved(c: Contrib, x: ir.Value, z: ir.Value | None) -> ir.Value:
    """A fused convolution of channels-first ``x``: ``z`` added to it, then the activation."""
    given = {}
    for name in _CONV:
        if name in c.node.attributes:
            given[name] = c.node.attributes[name].value
    bias = c.optional(2)
    y = c.b.op("Conv", x, c.input(1), *([] if bias is None else [bias]), **given)
    return activated(c, y if z is None else c.b.op("Add", y, z), c.floats_attr("activation_params"))


def _transposed(c: Contrib, value: ir.Value, operand: str) -> ir.Value:
    last, batch = c.int_attr(f"trans{operand}", 0), c.int_attr(f"transBatch{operand}", 0)
    if not last and not batch:
        return value
    rank = c.rank(value)
    if rank < 2 or (batch and rank < 3):
        return value
    perm = list(range(rank))
    if batch:
        perm = [*perm[1:-1], 0, rank - 1]
    if last:
        perm[-2:] = perm[-1], perm[-2]
    return c.b.op("Transpose", value, perm=perm)
