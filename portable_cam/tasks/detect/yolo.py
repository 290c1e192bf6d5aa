"""YOLOv5 and YOLOv8 layouts, decoded in the graph: centre and size in pixels of the input, then scores.

YOLOv5, v6 and v7 give rows (N, boxes, 4 + 1 + classes) with an objectness, YOLOv8, v9 and v11 columns
(N, 4 + classes, boxes) without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from portable_cam.export.targets import Boxes, Columns
from portable_cam.image.geometry import Size
from portable_cam.tasks.detect.head import Floats, Head, OutputSummary, corners

# a row per cell (v6) or per cell and anchor (v5, v7), on three scales or four (the P6 models)
_STRIDES = ((8, 16, 32), (8, 16, 32, 64))


def recognize_head(summary: OutputSummary) -> Head | None:
    """The number of boxes is that of the cells of the usual strides, and the graph decodes centre and size."""
    for name, dims in summary.outputs.items():
        if len(dims) != 3:
            continue
        cells = [summary.cells(strides) for strides in _STRIDES]
        kinds = {node.op_type for node in summary.behind(name)}
        if not kinds & {"Mul", "Pow", "Exp"}:
            continue
        if dims[1] in {*cells, *(3 * n for n in cells)} and dims[2] >= 6:
            return rows(name)
        if dims[2] in cells and dims[1] >= 5 and len(summary.outputs) == 1:
            return columns(name)
    return None


def rows(name: str) -> Head:
    """YOLOv5's layout."""

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        values = outputs[name].reshape(-1, outputs[name].shape[-1])
        return corners(values[:, :2], values[:, 2:4]), values[:, 4:5] * values[:, 5:]

    target = Boxes((Columns(name, 5),), (Columns(name, 4, 5),), (Columns(name, 0, 4),), form="cxcywh")
    return Head("yolov5", target, decode, "yolo", overlap=0.45)


def columns(name: str) -> Head:
    """YOLOv8's layout."""

    def decode(outputs: Mapping[str, NDArray[Any]], size: Size) -> tuple[Floats, Floats]:
        values = outputs[name].reshape(outputs[name].shape[-2:]).T
        return corners(values[:, :2], values[:, 2:4]), values[:, 4:]

    target = Boxes((Columns(name, 4, layout="columns"),), (), (Columns(name, 0, 4, "columns"),), form="cxcywh")
    return Head("yolov8", target, decode, "yolo", overlap=0.45)
