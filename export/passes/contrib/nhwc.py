"""Operators in channels-last layout, the standard one between two transpositions."""

from __future__ import annotations

import onnx_ir as ir

from portable_cam.export.passes.contrib.linear import convolved
from portable_cam.export.passes.contrib.registry import Contrib, decomposes

_POOL = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")


@decomposes("NhwcMaxPool")
def nhwc_max_pool(c: Contrib) -> ir.Value:
    """MaxPool of (N, H, W, C)."""
    rank = 2 + len(c.ints_attr("kernel_shape"))
    given = {name: c.node.attributes[name].value for name in _POOL if name in c.node.attributes}
    return channels_last(c, c.b.op("MaxPool", channels_first(c, c.input(0), rank), **given), rank)


@decomposes("NhwcFusedConv", "NhwcConv")
def nhwc_fused_conv(c: Contrib) -> ir.Value:
    """activation(Conv(x, w, bias) + z) of (N, H, W, C); the weights are as in Conv."""
    rank = c.rank(c.input(1))
    z = c.optional(3)
    y = convolved(c, channels_first(c, c.input(0), rank), None if z is None else channels_first(c, z, rank))
    return channels_last(c, y, rank)


def channels_first(c: Contrib, value: ir.Value, rank: int) -> ir.Value:
    """(N, ..., C) -> (N, C, ...)"""
    return c.b.op("Transpose", value, perm=[0, rank - 1, *range(1, rank - 1)])


def channels_last(c: Contrib, value: ir.Value, rank: int) -> ir.Value:
    """(N, C, ...) -> (N, ..., C)"""
    return c.b.op("Transpose", value, perm=[0, *range(2, rank), 1])
