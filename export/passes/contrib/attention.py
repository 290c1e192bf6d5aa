"""Attention with several heads: N sequences, S queries and T keys, h heads of D numbers each."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from portable_cam.export.graph.values import known_dims, static_dim
from portable_cam.export.passes.contrib.registry import Contrib, decomposes


@decomposes("Attention")
def attention(c: Contrib) -> Sequence[ir.Value]:
    """Queries, keys and values are one product x w + bias; the output is (N, S, h * D), the cache (2, N, h, T, D)."""
    b = c.b
    if c.int_attr("do_rotary", 0):
        raise c.refused("it rotates queries and keys by their positions (do_rotary)")
    if c.int_attr("past_present_share_buffer", 0) or c.optional(6) is not None:
        raise c.refused("it shares one buffer between the former and the present keys")
    bias = c.optional(2)
    joined = b.op("MatMul", c.input(0), c.input(1))
    joined = joined if bias is None else b.op("Add", joined, bias)
    sizes = c.ints_attr("qkv_hidden_sizes")
    if sizes:
        parts = b.op_multi("Split", [joined, b.ints(sizes)], 3, axis=-1)
    else:
        parts = b.op_multi("Split", [joined], 3, axis=-1, num_outputs=3)
    query, key, value = (_heads(c, part) for part in parts)
    if (past := c.optional(4)) is not None:
        former = b.op_multi("Split", [past], 2, axis=0, num_outputs=2)
        key, value = (
            b.op("Concat", b.op("Squeeze", old, b.ints([0])), new, axis=2)
            for old, new in zip(former, (key, value), strict=True)
        )
    total = static_dim(c.input(1), 1)
    width = sizes[0] if sizes else None if total is None else total // 3
    y = _attend(c, query, key, value, width, _mask(c, c.optional(3), query, key), c.optional(5))
    present = b.op("Concat", *(b.op("Unsqueeze", part, b.ints([0])) for part in (key, value)), axis=0)
    return [y, present]


@decomposes("MultiHeadAttention")
def multi_head_attention(c: Contrib) -> Sequence[ir.Value]:
    """Queries, keys and values are given, (N, S, h * D) each or keys and values (N, h, T, D), and a bias for all three.
    The output is (N, S, h * D), the caches (N, h, T, D)."""
    b = c.b
    if c.optional(8) is not None or c.optional(9) is not None:
        raise c.refused("it shares one buffer between the former and the present keys")
    key, value = c.optional(1), c.optional(2)
    if key is None or value is None:
        raise c.refused("queries, keys and values are packed into one tensor")
    parts = [c.input(0), key, value]
    width = static_dim(parts[0], 2)
    bias = c.optional(3)
    if bias is not None:
        total = static_dim(bias, 0)
        width = width if width is not None else None if total is None else total // 3
        if width is None or total is None:
            raise c.refused("the number of features of its queries is not known")
        biases = b.op_multi("Split", [bias, b.ints([width, width, total - 2 * width])], 3, axis=0)
        parts = [b.op("Add", part, own) if c.rank(part) == 3 else part for part, own in zip(parts, biases, strict=True)]
        for part in parts:
            part.shape = part.shape or ir.Shape([None] * 3)
    query, key, value = (
        part if c.rank(given) == 4 else _heads(c, part)
        for part, given in zip(parts, (c.input(0), key, value), strict=True)
    )
    for i in (6, 7):
        if (past := c.optional(i)) is not None:
            joined = b.op("Concat", past, key if i == 6 else value, axis=2)
            key, value = (joined, value) if i == 6 else (key, joined)
    y = _attend(c, query, key, value, width, _mask(c, c.optional(4), query, key), c.optional(5))
    return [y, key, value]


def _heads(c: Contrib, value: ir.Value) -> ir.Value:
    """(N, S, h * D) -> (N, h, S, D)"""
    apart = c.b.op("Reshape", value, c.b.ints([0, 0, c.int_attr("num_heads", 1), -1]))
    return c.b.op("Transpose", apart, perm=[0, 2, 1, 3])


def _attend(
    c: Contrib,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    width: int | None,
    mask: Sequence[ir.Value],
    bias: ir.Value | None,
) -> ir.Value:
    """softmax(query key^T scale + mask + bias) value, the heads side by side again: (N, S, h * D)."""
    b = c.b
    scale = c.float_attr("scale", 0.0)
    scores = b.op("MatMul", query, b.op("Transpose", key, perm=[0, 1, 3, 2]))
    if scale == 0 and width is not None:
        scale = (width / c.int_attr("num_heads", 1)) ** -0.5
    if scale:
        scores = b.op("Mul", scores, scale)
    else:
        size = b.op("Cast", b.op("Shape", query, start=3), to=int(query.dtype or ir.DataType.FLOAT))
        scores = b.op("Div", scores, b.op("Sqrt", size))
    for part in (*mask, *([] if bias is None else [bias])):
        scores = b.op("Add", scores, part)
    together = b.op("MatMul", b.op("Softmax", scores, axis=-1), value)
    return b.op("Reshape", b.op("Transpose", together, perm=[0, 2, 1, 3]), b.ints([0, 0, -1]))


def _mask(c: Contrib, mask: ir.Value | None, query: ir.Value, key: ir.Value) -> list[ir.Value]:
    """The terms to add to the scores: ``mask_filter_value`` where the mask hides a key, the least number for later
    keys."""
    b, dtype, added = c.b, query.dtype or ir.DataType.FLOAT, []

    def fill(hidden: ir.Value, number: float) -> ir.Value:
        return b.op("Mul", b.op("Cast", hidden, to=int(dtype)), number)

    keys, queries = b.op("Shape", key, start=2, end=3), b.op("Shape", query, start=2, end=3)
    positions = b.op("Range", b.ints(0), b.op("Squeeze", keys, b.ints([0])), b.ints(1))
    if mask is not None:
        rank = c.rank(mask)
        if rank == 1:
            _same_batch(c, mask, c.input(0))
            ends = b.op("Cast", b.op("Unsqueeze", mask, b.ints([1])), to=int(ir.DataType.INT64))
            hidden = b.op("Unsqueeze", b.op("GreaterOrEqual", positions, ends), b.ints([1, 2]))
        elif rank in {2, 3}:
            hidden = b.op("Unsqueeze", b.op("LessOrEqual", mask, 0), b.ints([1, 2] if rank == 2 else [1]))
        else:
            raise c.refused(f"its mask has {rank} axes; 1 to 3 are understood")
        added.append(fill(hidden, c.float_attr("mask_filter_value", -10000.0)))
    if c.int_attr("unidirectional", 0):
        own = b.op("Range", b.ints(0), b.op("Squeeze", queries, b.ints([0])), b.ints(1))
        own = b.op("Unsqueeze", b.op("Add", own, b.op("Sub", keys, queries)), b.ints([1]))
        added.append(fill(b.op("Greater", positions, own), float(dtype.min)))
    return added


def _same_batch(c: Contrib, mask: ir.Value, x: ir.Value) -> None:
    """A mask of one axis has one, two or three numbers per sequence; the first is understood."""
    mine, theirs = known_dims(mask), known_dims(x)
    names = [str(v.shape[0]) for v in (mask, x) if v.shape is not None]
    if mine is None or theirs is None or mine[0] != theirs[0] or (mine[0] is None and len(set(names)) != 1):
        raise c.refused("its mask of one axis is not known to have one number per sequence (right-side padding)")
