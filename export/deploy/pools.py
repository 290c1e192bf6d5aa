# SPDX-License-Identifier: Apache-2.0
"""The gradient of a MaxPool without its indices, for runtimes that have no kernel for them, or a slow one.

The rule for MaxPool (:mod:`portable_cam.export.autodiff.rules.pool`) adds each gradient at the index of its maximum,
which is fastest on ONNX Runtime's CPU provider. Here the maximum is found again by comparing, along one axis at a time:
the pool over a window is the pool over rows of the pool over columns, and the first of equals in the window, which gets
the gradient, is the first of its row, in the first row that holds it. So k + k comparisons do for a window of k * k.
The elements that a window reads are strided slices, and what goes back is padded to where each slice came from and
added: only operators that move elements, so that the result is exact and the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.operators import HALVES, ONNX_DOMAINS
from portable_cam.export.graph.subgraph import replace_node
from portable_cam.export.graph.values import dtype_of, input_of


@dataclass(frozen=True)
class _Along:
    """A pool along one axis: ``begin`` elements of padding, then windows of ``kernel`` elements ``step`` apart, the
    next one ``stride`` on; from ``size`` to ``count`` elements. ``behind`` has the sizes of the axes behind, which are
    pooled before it."""

    axis: int
    kernel: int
    stride: int
    step: int
    begin: int
    size: int
    count: int
    behind: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Of the tensors."""
        return self.axis + 1 + len(self.behind)

    @property
    def end(self) -> int:
        """Elements of padding behind, as many as the last window needs."""
        return max(0, (self.count - 1) * self.stride + self.step * (self.kernel - 1) + 1 - self.begin - self.size)


def without_pool_indices(model: ir.Model) -> list[str]:
    """Rewrite the gradients of the MaxPools, in place.

    Returns:
        The MaxPools that still give indices: sizes that are known only at run time, or a model that reads them itself.
    """
    builder = Builder(model.graph, "pool")
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.op_type == "MaxPool" and node.domain in ONNX_DOMAINS and len(node.outputs) > 1:
            _rewrite(builder, node)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    return [
        str(node.name)
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if node.op_type == "MaxPool" and len(node.outputs) > 1 and any(node.outputs[1].uses())
    ]


def _rewrite(b: Builder, pool: ir.Node) -> None:
    along = _axes(pool)
    if along is None:
        return
    for reshaped in [use.node for use in pool.outputs[1].uses() if use.node.op_type == "Reshape"]:
        for scatter, place in list(reshaped.outputs[0].uses()):
            if scatter.op_type != "ScatterElements" or place != 1:
                continue
            updates = input_of(scatter, 2).producer()
            if updates is None or updates.op_type != "Reshape":
                continue
            inner = b.nested()
            gradient = _gradient(inner, input_of(pool, 0), input_of(updates, 0), along)
            replace_node(inner, scatter, [inner.reshape(gradient, [-1])])


def _axes(pool: ir.Node) -> list[_Along] | None:
    """The axes that a pool works along, the last one first; None where a size is not known."""
    before, after = _sizes(input_of(pool, 0)), _sizes(pool.outputs[0])
    kernel = list(pool.attributes.get_ints("kernel_shape", ()))
    if before is None or after is None or len(after) != len(before):
        return None
    spatial = len(kernel)
    ones = [1] * spatial
    strides = list(pool.attributes.get_ints("strides", ones))
    dilations = list(pool.attributes.get_ints("dilations", ones))
    pads = list(pool.attributes.get_ints("pads", [0] * spatial))
    same = pool.attributes.get_string("auto_pad", "NOTSET")
    found = []
    for i in reversed(range(spatial)):
        size, count, reach = before[2 + i], after[2 + i], dilations[i] * (kernel[i] - 1) + 1
        begin = pads[i]
        if same.startswith("SAME"):
            total = max(0, (count - 1) * strides[i] + reach - size)
            begin = total // 2 if same == "SAME_UPPER" else total - total // 2
        if kernel[i] > 1 or strides[i] > 1:
            found.append(_Along(2 + i, kernel[i], strides[i], dilations[i], begin, size, count, tuple(after[3 + i :])))
    return found


def _sizes(value: ir.Value) -> list[int] | None:
    """The sizes behind the batch and channels, whose two places hold 0; None if one is not known."""
    if value.shape is None:
        return None
    dims = [0 if i < 2 else d for i, d in enumerate(value.shape.dims)]
    return [d for d in dims if isinstance(d, int)] if all(isinstance(d, int) for d in dims) else None


def _gradient(b: Builder, x: ir.Value, g: ir.Value, along: list[_Along]) -> ir.Value:
    """From the gradient of a pool's result to that of ``x``."""
    if x.dtype in HALVES:
        x = b.op("Cast", x, to=int(ir.DataType.FLOAT))  # exact; not every runtime compares halves
    stages = []
    for each in along:
        before, x = x, _pool(b, x, each)
        stages.append((each, before, x))
    for each, before, after in reversed(stages):
        g = _place(b, _choose(b, before, after, g, each), each)
    return g


def _pool(b: Builder, x: ir.Value, along: _Along) -> ir.Value:
    spatial, at = along.rank - 2, along.axis - 2

    def only(value: int, other: int) -> list[int]:
        return [value if i == at else other for i in range(spatial)]

    pooled = b.op(
        "MaxPool",
        x,
        kernel_shape=only(along.kernel, 1),
        strides=only(along.stride, 1),
        dilations=only(along.step, 1),
        pads=[*only(along.begin, 0), *only(along.end, 0)],
    )
    if x.shape is not None:
        pooled.shape = ir.Shape([along.count if i == along.axis else d for i, d in enumerate(x.shape.dims)])
    return pooled


def _choose(b: Builder, before: ir.Value, after: ir.Value, g: ir.Value, along: _Along) -> list[ir.Value]:
    """For each place in the window the gradients of the windows whose first maximum stands there, else 0."""
    if along.begin or along.end:
        before = _pad(b, before, along.axis, along.begin, along.end, _least(dtype_of(before)), along.rank)
    zero, left, chosen = b.number(0, g), g, []
    for i in range(along.kernel):
        first = i * along.step
        stop = first + (along.count - 1) * along.stride + 1
        ends = [b.ints([n]) for n in (first, stop, along.axis, along.stride)]
        is_it = b.op("Equal", b.op("Slice", before, *ends), after)
        chosen.append(b.op("Where", is_it, left, zero))
        if i < along.kernel - 1:
            left = b.op("Where", is_it, zero, left)
    return chosen


def _place(b: Builder, parts: list[ir.Value], along: _Along) -> ir.Value:
    """Add the parts up where their slices came from.

    Element i of every window lies i * step behind the window's first element, which is that of window o at o * stride:
    a whole number of strides on, and a rest. Parts of one rest are added, shifted by whole strides; the rests are
    woven into one another.
    """
    furthest = along.step * (along.kernel - 1) // along.stride
    woven: list[ir.Value | None] = [None] * along.stride
    for i, part in enumerate(parts):
        shift, rest = divmod(i * along.step, along.stride)
        shifted = _pad(b, part, along.axis, shift, furthest - shift, 0, along.rank) if furthest else part
        there = woven[rest]
        woven[rest] = shifted if there is None else b.op("Add", there, shifted)
    out = next(value for value in woven if value is not None)
    length = (along.count + furthest) * along.stride
    if along.stride > 1:
        if None in woven:  # a stride that steps over elements
            empty = b.op("Where", b.constant(False, ir.DataType.BOOL), out, b.number(0, out))
            woven = [empty if value is None else value for value in woven]
        columns = [b.op("Unsqueeze", value, b.ints([along.axis + 1])) for value in woven]
        together = b.op("Concat", *columns, axis=along.axis + 1)
        out = b.reshape(together, [*[0] * along.axis, length, *along.behind])
    wanted = along.begin + along.size
    if length < wanted:
        out = _pad(b, out, along.axis, 0, wanted - length, 0, along.rank)
    if along.begin or length > wanted:
        out = b.op("Slice", out, b.ints([along.begin]), b.ints([wanted]), b.ints([along.axis]))
    return out


def _pad(b: Builder, value: ir.Value, axis: int, before: int, after: int, with_: float, rank: int) -> ir.Value:
    """Without the input ``axes``, which not every runtime reads."""
    pads = [0] * (2 * rank)
    pads[axis], pads[rank + axis] = before, after
    return b.op("Pad", value, b.ints(pads), b.number(with_, value))


def _least(dtype: ir.DataType) -> float:
    kind = dtype.numpy()
    return float(np.finfo(kind).min if np.issubdtype(kind, np.floating) else np.iinfo(kind).min)
