"""Boxes that the graph chooses by their scores, traced back to all of them.

Non-maximum suppression, a threshold (NonZero, Gather) and TopK choose boxes; what goes into the choice is the raw head.
A number of the class is lost where only the best of the classes goes on: the axis over which it was the best is theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from portable_cam.export.graph.values import constant_of, known_dims, optional_input
from portable_cam.export.layers.columns import is_integer

#: Operators that take some of what they get; with indices that depend on the image, they choose.
CHOOSING = frozenset({"Gather", "GatherElements", "GatherND", "Compress"})
_SAME = frozenset({"Identity", "Cast", "Dropout"})
_NETWORK = frozenset({"Conv", "ConvTranspose", "Gemm", "LSTM", "GRU"})


@dataclass(frozen=True)
class ClassScores:
    """A tensor with a score for every box and class.

    Attributes:
        value: The tensor.
        axis: That of the classes.
        start: The first of its entries that is a class, and ``stop``, the one behind the last.
        best_only: Of the classes of a box only the best goes on to the choice.
    """

    value: ir.Value
    axis: int
    start: int = 0
    stop: int | None = None
    best_only: bool = False


def chooses(node: ir.Node) -> bool:
    """Whether a node takes some of the boxes, which depends on the image."""
    return node.op_type in CHOOSING and constant_of(optional_input(node, 1)) is None


def choices_behind(values: Iterable[ir.Value]) -> list[ir.Node]:
    """The nodes between the network and these tensors that choose boxes, from the tensors back."""
    found: dict[ir.Node, None] = {}
    seen: set[ir.Node] = set()
    pending = list(values)
    while pending:
        node = pending.pop().producer()
        if node is None or node in seen or is_network(node):
            continue
        seen.add(node)
        if chooses(node) or (node.op_type == "TopK" and not is_integer(node.outputs[0])):
            found[node] = None
            pending.extend(v for v in node.inputs[:1] if v is not None)
        else:
            pending.extend(v for v in node.inputs if v is not None)
    return list(found)


def is_network(node: ir.Node) -> bool:
    """Whether a node computes features; what lies behind it decodes. A product with a small matrix, as from centre and
    size to corners, decodes."""
    if node.op_type in _NETWORK:
        return True
    if node.op_type != "MatMul":
        return False
    sizes = [c.size for v in node.inputs if (c := constant_of(v)) is not None]
    return not sizes or max(sizes) > 16


def is_two_stage(values: Iterable[ir.Value]) -> bool:
    """Whether these tensors depend on boxes that were chosen before: proposals of a first stage."""
    seen: set[ir.Node] = set()
    pending = list(values)
    while pending:
        node = pending.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type in {"NonMaxSuppression", "RoiAlign"}:
            return True
        pending.extend(v for v in node.inputs if v is not None)
    return False


def all_boxes(value: ir.Value) -> ir.Value:
    """The tensor of boxes (.., boxes, 4) before those were chosen, and before each was shifted by its class to keep
    classes apart in a suppression."""
    return _traced(value)[0]


def is_shifted(value: ir.Value) -> bool:
    """Whether boxes were shifted by their class."""
    return _traced(value)[1]


def _traced(value: ir.Value) -> tuple[ir.Value, bool]:
    apart = False
    while (node := value.producer()) is not None and node.inputs and node.inputs[0] is not None:
        first = node.inputs[0]
        rearranged = node.op_type in {"Reshape", "Flatten"} and _last(first) == _last(value) == 4
        if node.op_type in _SAME | {"Unsqueeze", "Squeeze"} or rearranged or chooses(node):
            value = first
        elif node.op_type == "Add" and (shifted := _shifted(node)) is not None:
            value, apart = shifted, True
        else:
            break
    return value, apart


def _shifted(node: ir.Node) -> ir.Value | None:
    """Of a sum, the boxes to whose four numbers the same is added: the shift of a class."""
    for boxes, shift in ((0, 1), (1, 0)):
        value, other = node.inputs[boxes], node.inputs[shift]
        if value is None or other is None:
            continue
        producer = other.producer()
        if producer is not None and producer.op_type in {"Expand", "Tile"}:
            other = producer.inputs[0]
        if _last(value) == 4 and _last(other) == 1 and constant_of(other) is None:
            return value
    return None


def _last(value: ir.Value | None) -> int | None:
    dims = known_dims(value)
    return dims[-1] if dims else None


def box_counts(boxes: ir.Value) -> set[int]:
    """How many boxes there may be before the choice: those of a tensor, or of what it was chosen from."""
    found = [boxes, *(node.inputs[0] for node in choices_behind([boxes]))]
    return {d for value in found for d in (known_dims(value) or [])[:-1] if d is not None and d > 1}


def class_scores(value: ir.Value, axis: int | None, counts: Collection[int] = ()) -> ClassScores | None:
    """The scores of all boxes and classes that a tensor of scores was chosen from; None where they are not found.

    Args:
        value: Scores of boxes.
        axis: That of the classes; None where there is none any more.
        counts: How many boxes there may be, which tells the axis of the boxes from that of the classes.
    """
    while (node := value.producer()) is not None and node.inputs and (first := node.inputs[0]) is not None:
        single = axis is None or _size(value, axis) == 1
        kind, rank = node.op_type, len(known_dims(first) or [None])
        if kind in {"ReduceMax", "TopK"} and single:
            over = _over(node, rank)
            if len(over) == 1 and (kind == "ReduceMax" or _count(node) == 1):
                return ClassScores(_unchosen(first), over[0], best_only=True)
        if kind == "GatherND" and chooses(node) and axis is None and len(known_dims(value) or []) == 1 and rank > 1:
            pair = _box_and_class(first, counts)  # of each place above a threshold its box and its class
            return None if pair is None else ClassScores(_unchosen(first), pair[1])
        if kind in _SAME or chooses(node) or (kind == "TopK" and value is node.outputs[0]):
            value = first
        elif kind == "Transpose":
            perm = node.attributes.get_ints("perm", list(range(rank))[::-1])
            value, axis = first, None if axis is None else perm[axis]
        elif kind == "Unsqueeze":
            axes = _axes(node, rank + 1)
            value, axis = first, None if axis is None or axis in axes else axis - sum(a < axis for a in axes)
        elif kind == "Squeeze":
            axes = _axes(node, rank)
            value, axis = first, axes[-1] if axis is None else _before_squeeze(axis, axes)
        elif kind in {"Reshape", "Flatten"} and axis is None and (pair := _box_and_class(first, counts)) is not None:
            return ClassScores(_unchosen(first), pair[1])  # a score for each box and class, all in one row
        elif kind == "Gather" and axis is None and (one := _one_number(node)) is not None:
            return ClassScores(_unchosen(first), node.attributes.get_int("axis", 0) % rank, one, one + 1)
        else:
            break
    return None if axis is None else ClassScores(value, axis)


def _unchosen(value: ir.Value) -> ir.Value:
    """The tensor before boxes were chosen from it, its axes the same."""
    while (node := value.producer()) is not None and chooses(node) and (first := node.inputs[0]) is not None:
        if len(known_dims(first) or []) != len(known_dims(value) or []):
            break
        value = first
    return value


def _size(value: ir.Value, axis: int) -> int | None:
    dims = known_dims(value)
    return None if dims is None or axis >= len(dims) else dims[axis]


def _over(node: ir.Node, rank: int) -> list[int]:
    """The axes that a reduction or TopK goes over."""
    if node.op_type == "TopK":
        return [node.attributes.get_int("axis", -1) % rank]
    axes = constant_of(optional_input(node, 1))
    found = node.attributes.get_ints("axes", []) if axes is None else [int(a) for a in axes.reshape(-1)]
    return [a % rank for a in found] if rank else []


def _count(node: ir.Node) -> int | None:
    k = constant_of(optional_input(node, 1))
    return None if k is None or k.size != 1 else int(k.reshape(-1)[0])


def _one_number(node: ir.Node) -> int | None:
    index = constant_of(node.inputs[1])
    return int(index) if index is not None and not index.ndim else None


def _axes(node: ir.Node, rank: int) -> list[int]:
    given = constant_of(optional_input(node, 1))
    if given is None:
        return [i for i, d in enumerate(known_dims(node.inputs[0]) or []) if d == 1]
    return sorted(int(a) % rank for a in np.asarray(given).reshape(-1))


def _before_squeeze(axis: int, axes: Sequence[int]) -> int:
    for squeezed in axes:
        axis += squeezed <= axis
    return axis


def _box_and_class(value: ir.Value, counts: Collection[int]) -> tuple[int, int] | None:
    """The axes of boxes and of classes, if a tensor has just two beside a batch of one: by the number of boxes, else in
    this order."""
    dims = known_dims(_unchosen(value))
    wide = [] if dims is None else [i for i, d in enumerate(dims) if not (i == 0 and len(dims) == 3)]
    if dims is None or len(wide) != 2:
        return None
    turned = dims[wide[1]] in counts and dims[wide[0]] not in counts
    return (wide[1], wide[0]) if turned else (wide[0], wide[1])


def labels_of(value: ir.Value) -> str | None:
    """What is done to the class numbers on their way out, where they are not simply where the best score was: an
    operator's name; None where nothing is."""
    while (node := value.producer()) is not None and node.inputs and node.inputs[0] is not None:
        if node.op_type == "Gather" and constant_of(node.inputs[0]) is not None:
            return "a table (Gather)"
        if node.op_type in _INDEXING and not (node.op_type == "Sub" and constant_of(node.inputs[1]) is not None):
            return None
        if node.op_type in {"Add", "Sub", "Mul"}:
            return node.op_type
        if node.op_type not in _SAME | CHOOSING | {"Unsqueeze", "Squeeze", "Reshape", "Transpose", "Slice", "Split"}:
            return None
        value = node.inputs[0]
    return None


_INDEXING = frozenset({"ArgMax", "TopK", "Mod", "Sub"})
