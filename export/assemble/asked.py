# SPDX-License-Identifier: Apache-2.0
"""The inputs that say what is explained: the targets, and what a target brings; brought into range and flagged.

A file runs where nobody checks what it is fed. Runtimes differ in what an index out of range does (an error that names
a node inside, the last element, memory of something else), so none is let through: the nearest one is explained, and
the output ``clamped`` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from portable_cam.export import format
from portable_cam.export.graph.builder import Builder
from portable_cam.export.targets import Extra, Target


@dataclass(frozen=True)
class Asked:
    """What is explained, for all targets of all images.

    Attributes:
        targets: int64 (N, K), none negative.
        extras: What the target brings, each (N, K, ...), with what it is.
        clamped: bool (N, K): an index was out of range, and the nearest one has taken its place.
        ranked: A negative target points into a ranking; else it is out of range.
    """

    targets: ir.Value
    extras: list[tuple[Extra, ir.Value]]
    clamped: ir.Value
    ranked: bool


def ask(
    b: Builder,
    target: Target,
    scores: Sequence[ir.Value],
    batch: int | ir.SymbolicDim | None,
    targets_per_image: int | None,
) -> Asked:
    """Give the graph its inputs ``targets`` (N, K) and those that the target brings, and resolve them."""
    dims = [batch, "K" if targets_per_image is None else targets_per_image]
    given = _input(b, format.TARGETS, ir.DataType.INT64, dims)
    ranking = target.ranking(b, scores)
    last = _last(b, target.count(scores), ranking)
    targets, clamped = _resolve(b, ranking, given, last)
    extras = []
    for extra in target.inputs(scores):
        value = _input(b, extra.name, extra.dtype, [*dims, *extra.dims])
        if extra.dtype == ir.DataType.INT64 and not extra.dims:  # an index like the targets
            value, outside = _between(b, value, b.ints(0), last)
            clamped = b.op("Or", clamped, outside)
        extras.append((extra, value))
    return Asked(targets, extras, clamped, ranked=ranking is not None)


def _input(b: Builder, name: str, dtype: ir.DataType, dims: Sequence[int | str | ir.SymbolicDim | None]) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))
    b.graph.inputs.append(value)
    return value


def _last(b: Builder, count: int | None, ranking: ir.Value | None) -> ir.Value | None:
    """The greatest index; None where nothing tells."""
    if count is not None:
        return b.ints(count - 1)
    return None if ranking is None else b.op("Sub", b.op("Squeeze", b.dim(ranking, 1), b.ints([0])), 1)


def _between(b: Builder, index: ir.Value, first: ir.Value, last: ir.Value | None) -> tuple[ir.Value, ir.Value]:
    """The nearest index in a range, and whether it is another."""
    inside = b.op("Max", index, first)
    if last is not None:
        inside = b.op("Min", inside, last)
    return inside, b.op("Not", b.op("Equal", inside, index))


def _resolve(
    b: Builder, ranking: ir.Value | None, targets: ir.Value, last: ir.Value | None
) -> tuple[ir.Value, ir.Value]:
    """Negative targets, -1 the top class, replaced by what they point to in the image's ranking, as far as it goes."""
    if ranking is None or last is None:
        return _between(b, targets, b.ints(0), last)
    if last.const_value is not None:
        top = min(format.MOST_RANKS, int(last.const_value.numpy()) + 1)
        depth, lowest = b.ints([top]), b.ints(-top)
    else:
        depth = b.op("Min", b.ints([format.MOST_RANKS]), b.op("Add", b.op("Unsqueeze", last, b.ints([0])), 1))
        lowest = b.op("Neg", b.op("Squeeze", depth, b.ints([0])))
    inside, clamped = _between(b, targets, lowest, last)
    _, order = b.op_multi("TopK", [ranking, depth], 2, axis=1)
    order.dtype = ir.DataType.INT64
    rank = b.op("Max", b.op("Sub", b.op("Neg", inside), 1), 0)
    ranked = b.op("GatherElements", order, rank, axis=1)
    return b.op("Where", b.op("Less", inside, 0), ranked, inside), clamped
