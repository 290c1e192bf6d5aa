# SPDX-License-Identifier: Apache-2.0
"""Several rows of scores for an image (crops, regions, queries, steps), or for all of them (frames): one is chosen.

Which axis counts the rows and which the classes is read from the table of axes, and where both are channels from the
softmax or linear layer that makes the scores. A sum over rows is never explained: that is what a gradient of all of
them would be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from portable_cam.errors import TargetError
from portable_cam.export.autodiff.dequantized import is_constant
from portable_cam.export.graph.builder import Builder
from portable_cam.export.graph.values import constant_of, element_count, known_dims
from portable_cam.export.layers.axes import Axis
from portable_cam.export.targets.score_axes import ScoreAxes, score_axes

_SAME = frozenset({"Cast", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear"})
_SHIFTS = frozenset({"Add", "Div", "Mul", "Sub"})
_SOFTMAX = frozenset({"ArgMax", "LogSoftmax", "Softmax"})
_DEEP = 32


@dataclass(frozen=True)
class Rows:
    """Where the rows of a tensor of scores are.

    Attributes:
        axis: That of the rows.
        classes: That of the classes.
        count: How many rows there are, for each image or in all; None if known only at run time.
        images: The axis of images, where it is one of its own.
        outer: Where rows of all images stand in one axis: ``images`` if those of an image are neighbours, ``rows`` if
            the first rows of all images come first; None else.
    """

    axis: int
    classes: int
    count: int | None
    images: int | None = None
    outer: str | None = None

    @property
    def of_images(self) -> bool:
        """Each image has the row; else it is one of all images together."""
        return self.images is not None or self.outer is not None

    def describe(self) -> str:
        """How many rows of what, for a message."""
        many = "several rows" if self.count is None else f"{self.count} row{'s' if self.count != 1 else ''}"
        whose = "each image (its views, regions, queries, steps or pixels)" if self.of_images else "all images together"
        return f"{many} of scores for {whose}"

    def check(self, row: int, name: str) -> None:
        """Whether there is such a row.

        Raises:
            TargetError: There is not.
        """
        if self.count is not None and row >= self.count:
            raise TargetError(f"row {row} is out of range: '{name}' has {self.describe()}, 0 to {self.count - 1}")


def rows_of(graph: ir.Graph, value: ir.Value) -> Rows | None:
    """The rows of a tensor of scores; None where it has just one for each image or for all of them, or is none that
    consists of rows of classes.

    Args:
        graph: A normalised graph, not yet added to.
        value: One of its tensors.
    """
    axes = score_axes(graph, value)
    return None if axes.is_vector or axes.is_single else _read(value, axes)


def may_have_rows(graph: ir.Graph, value: ir.Value) -> bool:
    """Whether a tensor has an axis of images and two others, of which nothing tells which counts classes."""
    axes = score_axes(graph, value)
    many = [i for i, size in enumerate(axes.sizes or ()) if size != 1 and i > 0]
    known = axes.roles is not None and axes.roles[0] == "images"
    return known and len(many) == 2 and not axes.is_map and _read(value, axes) is None


def rows_to_choose(graph: ir.Graph, value: ir.Value) -> Rows | None:
    """As :func:`rows_of`, but also the images themselves, whose rows may all depend on all of them, as those of frames
    behind a recurrent layer do."""
    axes = score_axes(graph, value)
    if axes.sizes is not None and len(axes.sizes) == 2 and axes.roles is not None and axes.roles[0] == "images":
        return Rows(0, 1, axes.sizes[0])
    return _read(value, axes)


def _read(value: ir.Value, axes: ScoreAxes) -> Rows | None:
    roles, sizes = axes.roles, axes.sizes
    if roles is None or sizes is None:
        return None
    many = [i for i, size in enumerate(sizes) if size != 1]
    images = next((i for i, role in enumerate(roles) if role == "images" and (i in many or i == 0)), None)
    rest = [i for i in many if i != images]
    if len(rest) == 1 and images is not None and rest[0] > images > 0:
        return Rows(images, rest[0], sizes[images])  # (1, frames, classes), which a recurrent layer made
    if len(rest) != 2:
        return None
    classes = _class_axis(value, axes, rest)
    if classes is None:
        return None
    (axis,) = (i for i in rest if i != classes)
    if images is None and axes.axes is not None and (mixed := _mixed(axes.axes[axis])) is not None:
        return Rows(axis, classes, mixed[1], outer=mixed[0])
    return Rows(axis, classes, sizes[axis], images)


def _mixed(axis: Axis) -> tuple[str, int] | None:
    """Of an axis of images and rows which comes first, and how many rows an image has."""
    digits = axis[0] if len(axis) == 1 else ()
    at = [i for i, digit in enumerate(digits) if digit.kind == "image" and digit.whole]
    sizes = [digit.size for digit in digits if digit.kind != "image"]
    if len(at) != 1 or at[0] not in {0, len(digits) - 1} or len(sizes) != len(digits) - 1:
        return None
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) != len(sizes) or not known:
        return None
    return ("images" if at[0] == 0 else "rows"), math.prod(known)


def _class_axis(value: ir.Value, axes: ScoreAxes, among: list[int]) -> int | None:
    """Which of two axes holds the classes."""
    roles, rank = axes.roles or (), len(axes.sizes or ())
    declared = [i for i in among if roles[i] == "classes"]
    if len(declared) == 1:
        return declared[0]
    for node, _ in value.uses():
        if node.op_type in _SOFTMAX:
            axis = node.attributes.get_int("axis", 0 if node.op_type == "ArgMax" else -1) % rank
            return axis if axis in among else None
    made = [i for i in among if _is_made(value, i, 0)]
    return made[0] if len(made) == 1 else None


def _is_made(value: ir.Value | None, axis: int, depth: int) -> bool:
    """Whether an axis counts the outputs of a linear layer, followed back through what only moves and shifts numbers.

    Args:
        value: The tensor.
        axis: Which of its axes.
        depth: How far it was followed.
    """
    node, dims = None if value is None else value.producer(), known_dims(value)
    if node is None or dims is None or depth > _DEEP or not node.inputs:
        return False
    kind, first = node.op_type, node.inputs[0]
    before = known_dims(first)
    if kind in {"Gemm", "MatMul"}:
        return axis == len(dims) - 1 and is_constant(node.inputs[1])
    if kind == "Conv":
        return axis == 1 and is_constant(node.inputs[1])
    if kind in _SHIFTS:
        varying = [v for v in node.inputs if not is_constant(v)]
        return len(varying) == 1 and known_dims(varying[0]) == dims and _is_made(varying[0], axis, depth + 1)
    if kind == "Concat":
        return all(_is_made(part, axis, depth + 1) for part in node.inputs)
    if before is None:
        return False
    if kind in _SAME | {"Slice", "Split"} or (kind == "Gather" and len(before) == len(dims)):
        return _is_made(first, axis, depth + 1)
    if kind == "Transpose":
        return _is_made(first, node.attributes.get_ints("perm", list(range(len(dims)))[::-1])[axis], depth + 1)
    if kind in {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}:
        moved = _reshaped(dims, before, axis, node)
        return moved is not None and _is_made(first, moved, depth + 1)
    return False


def _reshaped(dims: list[int | None], before: list[int | None], axis: int, node: ir.Node) -> int | None:
    """Where an axis was before a reshaping that left it whole; None if it did not."""
    if node.op_type == "Unsqueeze":
        given = constant_of(node.inputs[1])
        new = set() if given is None else {int(a) % len(dims) for a in given.reshape(-1)}
        return None if given is None or axis in new else axis - sum(a < axis for a in new)
    if dims[axis] == before[-1] and axis == len(dims) - 1:
        return len(before) - 1
    behind = element_count(dims[axis + 1 :])
    for i, size in enumerate(before):
        if size is not None and size == dims[axis] and behind is not None and behind == element_count(before[i + 1 :]):
            return i
    return None


def pick_row(b: Builder, value: ir.Value, rows: Rows, row: int) -> ir.Value:
    """One row of scores: (N, classes), or (1, classes) where it is that of all images together.

    Args:
        b: Writes the nodes.
        value: The tensor of scores.
        rows: Its rows.
        row: Which of them.
    """
    dims = known_dims(value) or []
    classes = dims[rows.classes]
    axis, moved = rows.axis, value
    if rows.outer is not None and rows.count is not None:  # an axis for each
        sizes = [0 if d is None else d for d in dims]
        pair = [-1, rows.count] if rows.outer == "images" else [rows.count, -1]
        moved = b.op("Reshape", value, b.ints([*sizes[:axis], *pair, *sizes[axis + 1 :]]))
        axis += rows.outer == "images"
    chosen = b.op("Gather", moved, b.ints(row), axis=axis)  # the axis is gone
    chosen.shape = None
    left = [i for i in range(len(dims)) if i != rows.axis]
    if rows.images is not None and rows.images > rows.classes:
        chosen = b.op(
            "Transpose",
            chosen,
            perm=[left.index(rows.images), *(i for i, axis_before in enumerate(left) if axis_before != rows.images)],
        )
    wide = b.op("Reshape", chosen, b.ints([-1 if rows.of_images else 1, classes if classes is not None else -1]))
    wide.shape = ir.Shape([None if rows.of_images else 1, classes])
    return wide
