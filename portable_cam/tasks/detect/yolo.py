"""YOLOv5 and YOLOv8 layouts, decoded in the graph: centre and size in pixels of the input, scores, and what follows.

YOLOv5, v6 and v7 give rows (N, boxes, 4 + 1 + classes + extras) with an objectness, YOLOv8, v9 and v11 columns
(N, 4 + classes + extras, boxes) without. The extras are key points, an angle or coefficients of masks: the classes are
those numbers that one sigmoid makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from portable_cam.errors import HeadError
from portable_cam.export.graph.values import constant_of
from portable_cam.export.layers.columns import is_integer, is_linear, is_probability
from portable_cam.export.targets import AXES, Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.spelling import option
from portable_cam.tasks.detect.head import Floats, Head, OutputSummary, corners

Layout = Literal["rows", "columns"]

# a row per cell (v6) or per cell and anchor (v5, v7), on three scales, four (the P6 models, and P2) or five
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (4, 8, 16, 32, 64))
_BOX = 4


def recognize_head(summary: OutputSummary) -> Head | None:
    """The number of boxes is that of the cells of the usual strides, and the graph decodes centre and size."""
    cells = [summary.cells(strides) for strides in _STRIDES]
    for name, dims in summary.rows().items():
        if not {node.op_type for node in summary.behind(name)} & {"Mul", "Pow", "Exp"}:
            continue
        layouts: tuple[tuple[Layout, int], ...] = (("rows", 3), ("rows", 1), ("columns", 1))
        for layout, anchors in layouts:
            boxes, numbers = dims[3 - AXES[layout]], dims[AXES[layout]]
            if boxes in {anchors * n for n in cells} and numbers > _BOX:
                found = of_output(summary, name, layout, anchors)
                if found is not None and _accounts_for(summary, name, found, numbers):
                    return found
    return None


def of_output(
    summary: OutputSummary, name: str, layout: Layout, anchors: int = 1, objectness: bool | None = None
) -> Head | None:
    """The head of an output whose numbers per box begin with a box that the graph decodes; None where they do not.

    Args:
        summary: Of the graph.
        name: The output.
        layout: Of its numbers.
        anchors: Boxes per cell.
        objectness: Whether a score of the box stands before those of the classes; None: see :func:`_scores`.

    Raises:
        HeadError: Which of the numbers are classes is not told by the operators that make them, or they are not as
            many as the file says.
    """
    columns = summary.columns(name, AXES[layout])
    if columns is None:
        raise HeadError(f"the sizes of '{name}' are not known: what its numbers are cannot be told")
    if any(is_linear(value) or is_integer(value) for column in columns[:_BOX] for value in column):
        return None  # not decoded
    if any(all(map(is_probability, column)) for column in columns[:_BOX]):
        return None
    start, stop = _scores(summary, name, columns, layout, anchors, objectness)
    product = any(_is_product(value) for value in columns[start])
    return head(name, layout, (start, stop), objectness=start > _BOX and not product)


def _scores(
    summary: OutputSummary,
    name: str,
    columns: Sequence[frozenset[ir.Value]],
    layout: Layout,
    anchors: int,
    objectness: bool | None,
) -> tuple[int, int]:
    """The first number of a box that is a class, and the one behind the last.

    An objectness stands before them in rows of three anchors per cell, and where another operator makes the number.
    """
    score = [all(is_probability(value) for value in column) for column in columns]
    if not score[_BOX]:
        raise HeadError(_unclear(name, columns, "number 4 of each box is not made by a sigmoid or softmax"))
    until = next((i for i in range(_BOX, len(columns)) if not score[i]), len(columns))
    possible = (0, 1) if objectness is None else (int(objectness),)
    if summary.classes is not None:
        ends = [(_BOX + n, _BOX + n + summary.classes) for n in possible]
        fits = [(start, stop) for start, stop in ends if stop <= until and _ends(columns, stop)]
        if len(fits) == 1:
            return fits[0]
    if objectness is None:
        alone = until > _BOX + 1 and columns[_BOX] != columns[_BOX + 1]
        if alone and layout == "columns":
            raise HeadError(
                _unclear(name, columns, "number 4 of each box may be a class or an objectness, two sigmoids make them")
            )
        objectness = layout == "rows" and (anchors == 3 or alone)
    start = _BOX + objectness
    stop = next((i for i in range(start, until) if columns[i] != columns[start]), until)
    if stop == start:
        raise HeadError(_unclear(name, columns, "no number is made by a sigmoid or softmax but the objectness"))
    if stop < until:
        raise HeadError(_unclear(name, columns, "several sigmoids make numbers one behind the other"))
    return start, stop


def _ends(columns: Sequence[frozenset[ir.Value]], at: int) -> bool:
    """Whether something else begins there."""
    return at == len(columns) or columns[at] != columns[at - 1]


def _unclear(name: str, columns: Sequence[frozenset[ir.Value]], why: str) -> str:
    return (
        f"'{name}' has boxes of {len(columns)} numbers, but which of them are classes cannot be told: {why}. Give the "
        f"labels of the classes, or say it in a JSON file ({option('head')}), as "
        f'{{"classes": {{"tensor": "{name}", "start": 4, "stop": 84}}, "boxes": {{"tensor": "{name}", "stop": 4}}, '
        f'"form": "cxcywh"}}; docs/tasks.md shows more'
    )


def _is_product(value: ir.Value) -> bool:
    """Class times objectness, multiplied in the graph."""
    node = value.producer()
    return node is not None and node.op_type == "Mul" and all(constant_of(v) is None for v in node.inputs)


def _accounts_for(summary: OutputSummary, name: str, head: Head, numbers: int) -> bool:
    """Whether nothing else comes out but prototypes of masks, as many as each box has coefficients, or (rows) what the
    boxes were decoded from."""
    stop = head.target.classes[0].stop or numbers
    others = {other: dims for other, dims in summary.outputs.items() if other != name}
    if head.target.classes[0].layout == "rows":
        return True
    return all(len(dims) == 4 and numbers - stop in {dims[1], dims[3]} for dims in others.values())


def head(
    name: str, layout: Layout, classes: tuple[int, int | None] | None = None, *, objectness: bool | None = None
) -> Head:
    """The head of an output of either layout; by default rows have an objectness, and the classes end the numbers."""
    objectness = layout == "rows" if objectness is None else objectness
    start, stop = (_BOX + objectness, None) if classes is None else classes

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        values = outputs[name].reshape(outputs[name].shape[-2:])
        values = values if layout == "rows" else values.T
        scores = values[:, start:stop]
        factor = values[:, _BOX : _BOX + 1] if objectness else np.float32(1)
        return corners(values[:, :2], values[:, 2:_BOX]), scores * factor

    def columns(first: int, last: int | None) -> tuple[Columns, ...]:
        return (Columns(name, first, last, layout),)

    target = Boxes(columns(start, stop), columns(_BOX, _BOX + 1) if objectness else (), columns(0, _BOX), form="cxcywh")
    return Head("yolov5" if objectness else "yolov8", target, decode, "yolo", overlap=0.45)
