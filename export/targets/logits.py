# SPDX-License-Identifier: Apache-2.0
"""Logits behind which probabilities are put together with other numbers: classes beside the boxes of a detector, two
heads in one output.

A Concat, Transpose, Slice or Split moves numbers and computes none. So the same nodes are written once more, with the
logits in place of their sigmoid or softmax, and the explained column is found where it was.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from portable_cam.export.autodiff.dequantized import as_run
from portable_cam.export.graph.values import dtype_of
from portable_cam.export.layers.columns import entries_of, is_linear, makers_of, moved_from, moved_with
from portable_cam.export.layers.derive import SCORE_AXES

#: What turns scores into probabilities.
SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
_ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})


def probabilities_in(value: ir.Value, axis: int, start: int = 0, stop: int | None = None) -> tuple[ir.Value, ...]:
    """The results of a sigmoid or softmax that some columns of a tensor consist of, and of nothing else but logits;
    none where another operator makes one of them, as the product of class and objectness.

    Args:
        value: Of a normalised graph.
        axis: That of the columns.
        start: The first column.
        stop: The one behind the last.
    """
    node = value.producer()
    if node is not None and node.op_type in SQUASHING:  # directly, whatever sizes are open
        rank = 0 if value.shape is None else len(value.shape)
        over = axis if node.op_type == "Sigmoid" or not rank else node.attributes.get_int("axis", -1) % rank
        return (value,) if over == axis else ()
    makers = makers_of(value)
    if makers is None:
        return ()
    found = list(dict.fromkeys(maker for column in makers.along(axis)[start:stop] for maker in column))
    squashed = [maker for maker in found if _kind(maker) in SQUASHING]
    if any(maker not in squashed and not is_linear(maker) for maker in found):
        return ()
    if any(_kind(maker) != "Sigmoid" and not _over_columns(value, maker, axis, start, stop) for maker in squashed):
        return ()
    return tuple(squashed)


def kinds_of(probabilities: Collection[ir.Value]) -> str:
    """The operators that make them."""
    return " and ".join(sorted({_kind(value) for value in probabilities}))


def is_one_head(value: ir.Value, axis: int, probabilities: Collection[ir.Value]) -> bool:
    """Whether all columns of a tensor are of one softmax, or all of sigmoids, so that they can be compared."""
    if value in probabilities:
        return True
    makers = makers_of(value)
    kinds = {_kind(probability) for probability in probabilities}
    whole = makers is not None and {v for column in makers.along(axis) for v in column} == set(probabilities)
    return whole and (kinds == {"Sigmoid"} or len(probabilities) == 1)


def _kind(value: ir.Value) -> str:
    node = value.producer()
    return "" if node is None else node.op_type


def _over_columns(value: ir.Value, maker: ir.Value, axis: int, start: int, stop: int | None) -> bool:
    """Whether a softmax is over the columns: each of them is one entry of it, everywhere."""
    node, rank = maker.producer(), 0 if maker.shape is None else len(maker.shape)
    if node is None or not rank:
        return False
    entries = entries_of(value, maker, node.attributes.get_int("axis", -1) % rank)
    if entries is None:
        return False
    columns = np.moveaxis(entries, axis, 0)[start:stop]
    columns = columns.reshape(len(columns), -1)
    own = [np.unique(column) for column in columns if (column >= 0).any()]
    return all(len(column) == 1 for column in own) and len({int(c[0]) for c in own}) == len(own)


def with_logits(graph: ir.Graph, value: ir.Value, probabilities: Sequence[ir.Value]) -> ir.Value:
    """The tensor with logits in place of probabilities, in a graph that grows by the nodes that move them.

    Args:
        graph: The graph, which is added to.
        value: What :func:`probabilities_in` looked at.
        probabilities: What it found.
    """
    made: dict[ir.Value, ir.Value] = {}
    for probability in probabilities:
        node = probability.producer()
        if node is not None and node.inputs[0] is not None:
            made[probability] = as_run(node.inputs[0])
    for current in moved_with(value):
        node = current.producer()
        sources = [source for source in moved_from(current) if source in made]
        if current in made or node is None or not sources:
            continue
        if node.op_type in _ROUNDING:  # of probabilities, whose steps are not those of logits
            made[current] = made[sources[0]]
            continue
        again = ir.node(
            node.op_type,
            [made.get(v, v) if v is not None else None for v in node.inputs],
            dict(node.attributes),
            num_outputs=len(node.outputs),
            name=f"{node.name or node.outputs[0].name}/logits/{current.name}",
        )
        for old, new in zip(node.outputs, again.outputs, strict=True):
            new.name, new.shape = f"{again.name}/{old.name}", old.shape
            new.type = ir.TensorType(dtype_of(made[sources[0]]))
        graph.append(again)
        made[current] = again.outputs[list(node.outputs).index(current)]
    result = made[value]
    if SCORE_AXES in value.meta:
        result.meta[SCORE_AXES] = value.meta[SCORE_AXES]
    return result
